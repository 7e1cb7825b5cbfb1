"""Explain latents, score explanations on data they were not made from, and refine and use them."""
