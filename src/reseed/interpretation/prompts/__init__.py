"""What a model is shown, and what is read from its reply."""
