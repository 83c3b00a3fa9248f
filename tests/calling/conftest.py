"""The tests of calls run over both transports: grpc.aio's channels, and a network in memory."""

from __future__ import annotations

from typing import Any

import pytest

from pymicro.calling.connections import core
from tests.fakes.transport import Network

from . import backends

# Files whose tests are about calls, and not about grpc.aio, sockets or processes.
BOTH = {
    "test_calls.py",
    "test_call_state.py",
    "test_dropped.py",
    "test_interceptors.py",
    "test_interceptor_orders.py",
    "test_metadata.py",
    "test_misuse.py",
    "test_retries.py",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.path.name in BOTH:
        # A marked test is about grpc.aio itself; the mark has the reason.
        alone = metafunc.definition.get_closest_marker("grpc_only") is not None
        metafunc.parametrize("transport", ["grpc"] if alone else ["grpc", "memory"], indirect=True)


@pytest.fixture(autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The network of a test: None for the real one."""
    network = Network() if getattr(request, "param", "grpc") == "memory" else None
    if network is not None:
        monkeypatch.setattr(core, "GrpcTransport", lambda: network)
        monkeypatch.setattr(backends, "network", network)
    return network
