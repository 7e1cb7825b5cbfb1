"""The tiny study, importable from every test of this room."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from reseed.report.study import write_report
from reseed.store import Store


def _write_study() -> Callable[..., Store]:
    # importlib mode keeps test folders off sys.path, so the helper is loaded by its place
    name = "reseed_tests_tiny_store"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, Path(__file__).with_name("tiny_store.py")
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name].write_study


@pytest.fixture
def make_store(tmp_path) -> Callable[..., Store]:
    """Writes a tiny study; arguments as of `tiny_store.write_study`."""
    return lambda **options: _write_study()(tmp_path / "study", **options)


@pytest.fixture
def make_page(make_store) -> Callable[..., Path]:
    """Writes a tiny study and its page; gives the file."""

    def make(**options: object) -> Path:
        store = make_store(**options)
        write_report(store, "report.html")
        return store.path("report.html")

    return make


@pytest.fixture
def make_text(make_page) -> Callable[..., str]:
    """Writes a tiny study and its page; gives the words on it."""

    def make(**options: object) -> str:
        page = make_page(**options).read_text("utf-8")
        words = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)
        return " ".join(unescape(words).split())

    return make
