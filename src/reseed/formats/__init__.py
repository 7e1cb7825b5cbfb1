"""Published file formats of SAEs; one file each, read and write."""
