"""Which features of the whole subject are still there in another version of it."""
