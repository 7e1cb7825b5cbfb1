import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def hard():
    """The module `hard_rows.py`."""
    path = Path(__file__).parent / "hard_rows.py"
    spec = importlib.util.spec_from_file_location("hard_rows", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
