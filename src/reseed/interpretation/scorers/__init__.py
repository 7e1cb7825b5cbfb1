"""How well an explanation predicts where a latent fires; one file a scorer."""
