"""All stages of a study in order, and what they would cost."""
