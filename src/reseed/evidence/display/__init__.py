"""What is kept for people to look at: how strongly latents fire, logits, text to be searched."""
