"""One large SAE over several ranks: each holds some blocks of its latents (docs/sharding.md)."""
