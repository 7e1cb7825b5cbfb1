"""Products of two dictionaries block by block, and what passes over them keep."""
