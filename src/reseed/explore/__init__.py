"""A web app over the store of a study: its latents over all runs, searched, sorted and compared.

DuckDB reads the store's Parquet files where they lie; nothing is copied and nothing of a study is
written. A person's stars and notes lie in a file beside it. Needs `reseed[explore]`.
"""
