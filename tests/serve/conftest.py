"""A server in this process, on a free port of the loopback."""

import contextlib

import pytest

from asr_kd.runtime.backend import TorchBackend
from asr_kd.runtime.recognizer import Recognizer
from asr_kd.serve.server import Server
from asr_kd.serve.settings import ServeSettings
from tests.helpers.serve_client import RULES
from tests.helpers.tiny_models import VOCABULARY, tiny_model


@pytest.fixture(scope="session")
def recognizer():
    return Recognizer(TorchBackend(tiny_model()), VOCABULARY)


@pytest.fixture
def serving(recognizer):
    """`async with serving(limit=…) as server`."""
    pytest.importorskip("websockets")
    pytest.importorskip("prometheus_client")

    @contextlib.asynccontextmanager
    async def serve(**limits):
        given = {"port": 0, "max_batch": 8, "endpoint": RULES, "busy_load": 1e9, **limits}
        async with Server(recognizer, ServeSettings(**given), "tiny") as server:
            yield server

    return serve
