"""The figures of the pages in Python."""
