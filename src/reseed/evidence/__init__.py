"""What latents fire on: one pass over held-out activations after training."""
