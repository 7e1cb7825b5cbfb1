"""SAEs that trainings go on from, where a study names one in the place of a start."""
