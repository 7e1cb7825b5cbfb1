"""Models that answer, embed, continue or are steered: servers, transformers, and a fake."""
