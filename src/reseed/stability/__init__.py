"""What the matches mean: shares beside their nulls, families, reproducibility of each latent."""
