"""Published formats of SAEs; one file a family, each with `recognise`, `read` and `write`."""
