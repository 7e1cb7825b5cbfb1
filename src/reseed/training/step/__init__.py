"""One step of training: the plain rule by torch, and the fast paths that equal it."""
