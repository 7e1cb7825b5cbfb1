"""The report of a study as one HTML file."""

from __future__ import annotations

from reseed.store import Store


def write_report(store: Store, name: str) -> None:
    """Write the page."""
    store.write_bytes(name, b"")
