"""How each architecture is trained; one file each, named as in `architecture = "NAME"`."""
