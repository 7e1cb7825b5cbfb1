"""The page of a study: reads the store, computes nothing."""
