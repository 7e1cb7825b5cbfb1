"""Two or more SAEs that are already there, compared."""
