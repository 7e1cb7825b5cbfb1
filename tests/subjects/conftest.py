import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder instead of the user's."""
    monkeypatch.setenv("RESEED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
