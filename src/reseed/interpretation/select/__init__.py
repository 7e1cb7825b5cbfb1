"""Latents chosen for a labelled task, by explanations (LLM-Select) and by data."""
