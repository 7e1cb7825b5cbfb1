"""The web app that shows latents of a study over its runs."""
