"""How good "found by N of M runs" is at telling features that exist: measured on known features."""
