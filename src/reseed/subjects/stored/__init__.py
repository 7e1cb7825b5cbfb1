"""Activations that were stored: one file or many, of this library or of others; read only."""
