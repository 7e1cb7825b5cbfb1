"""The Parquet files of a study as SQL, and what an address asks of them."""
