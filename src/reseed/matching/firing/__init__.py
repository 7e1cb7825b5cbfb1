"""Matching by what latents do: how alike they fire on the same tokens."""
