"""What a study says about each architecture; one file each, read without torch."""
