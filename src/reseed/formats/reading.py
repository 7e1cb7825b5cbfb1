"""Placeholder until the formats are merged."""

from pathlib import Path

from reseed.formats import own
from reseed.records import SAEArrays


def read(reference: str) -> SAEArrays:
    """An SAE in our own format."""
    return own.read(Path(reference))
