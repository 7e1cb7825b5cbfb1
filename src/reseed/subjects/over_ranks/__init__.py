"""Subjects too large for one GPU: several processes hold them together."""
