"""One dictionary of the features that come back over the runs of a study."""
