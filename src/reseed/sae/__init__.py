"""Sparse autoencoders: what one is, and one file for each architecture that can be trained."""
