"""The claims of arXiv 2501.16615 beside what the studies of `studies/paper` give."""
