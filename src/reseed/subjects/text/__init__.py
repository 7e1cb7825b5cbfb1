"""Documents, their tokens, and activations on them in blocks."""
