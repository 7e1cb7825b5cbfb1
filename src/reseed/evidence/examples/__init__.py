"""Samples of the text windows in which latents fire, and in which they are silent."""
