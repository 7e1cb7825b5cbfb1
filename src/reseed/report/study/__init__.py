"""The page of a study, section by section."""
