"""What width, k, site and tokens do to agreement, over the groups of a study."""
