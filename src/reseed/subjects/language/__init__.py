"""Language models, their tokenizers and weights."""
