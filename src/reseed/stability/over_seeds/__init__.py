"""What many runs say together: families, curves over runs, the posterior of reproducibility."""
