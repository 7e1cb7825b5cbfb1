"""Training: one stream of activations feeds all runs of a site."""
