"""Reproducibility predicted from one run, and the table of latents for others."""
