"""Which latent of one SAE is which latent of another: arrays in, records out."""
