"""Parts of a study's work on this machine, on Slurm or on Ray; the store says what is missing."""
