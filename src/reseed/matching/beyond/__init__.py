"""What became of latents without a one-to-one counterpart: splits, merges, subspaces."""
