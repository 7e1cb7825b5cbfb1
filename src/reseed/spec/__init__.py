"""Everything that a `study.toml` can say, read without torch."""
