"""Parts of what a study says about its subject."""
