import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def known():
    """The module `known_features.py`."""
    path = Path(__file__).parent / "known_features.py"
    spec = importlib.util.spec_from_file_location("known_features", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
