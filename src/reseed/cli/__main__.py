"""`python -m reseed.cli`."""

from reseed.cli import main

main()
