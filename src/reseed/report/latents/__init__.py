"""Latents on a page: who their nearest in other runs are, a table of all, cards of a few."""
