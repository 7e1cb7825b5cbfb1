"""How results show themselves in a notebook: small tables, and doors to what stands above."""
