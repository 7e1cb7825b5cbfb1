"""Files of arrays: read without running or believing anything in them."""
