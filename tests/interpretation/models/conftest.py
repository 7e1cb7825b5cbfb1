"""Servers made for the tests, and questions to put to them."""

import importlib.util
import os
from pathlib import Path

import pytest

from reseed.interpretation.models.chat import ServerModel
from reseed.interpretation.models.limits import Gate
from reseed.interpretation.records import Message, Request
from reseed.spec.llm import ServerSpec

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def hostile():
    """The module `hostile.py`."""
    path = Path(__file__).parent / "hostile.py"
    spec = importlib.util.spec_from_file_location("hostile", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def serve(hostile):
    """Starts servers that behave as told; closes them at the end."""
    servers = []

    def start(behaviour):
        servers.append(hostile.HostileServer(behaviour))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def question():
    """Makes a request with one user message."""

    def make(text, **settings):
        return Request(messages=(Message(role="user", content=text),), **settings)

    return make


@pytest.fixture
def gate():
    """A gate whose sleeps are written down and take no time; attempts follow at once."""
    import stamina

    class Recorded(Gate):
        def __init__(self):
            self.slept, self.now = [], 0.0
            super().__init__(self._written_down, lambda: self.now)

        async def _written_down(self, seconds):
            self.slept.append(seconds)
            self.now += seconds

    with stamina.set_testing(True, attempts=100, cap=True):
        yield Recorded()


@pytest.fixture
def connect():
    """Opens impatient models behind servers; closes them at the end."""
    models = []

    def make(url, transport=None, gate=None, **settings):
        base = {"model": "m", "timeout": 5.0, "retries": 2, "concurrency": 4}
        spec = ServerSpec(base_url=url, **{**base, **settings})
        models.append(ServerModel(spec, transport=transport, gate=gate))
        return models[-1]

    yield make
    for model in models:
        model.close()
