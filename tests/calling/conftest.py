"""The tests of calls run over grpc.aio, a network in memory, and transport `fast` if it is built."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pymicro.calling.connections import core
from tests.fakes.transport import Network
from tests.seams import counted, over_transports

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
    "test_recording.py",
    "test_retries.py",
    "test_tracebacks.py",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.path.name in BOTH:
        over_transports(metafunc)


@pytest.fixture(autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has a test's calls go over a network in memory, or over the real one; counts those of the seam."""
    param = getattr(request, "param", None)
    if param == "memory":
        network = Network()
        monkeypatch.setattr(core, "GrpcTransport", lambda: network)
        monkeypatch.setattr(backends, "network", network)
    elif param == "fast":
        from pymicro.calling.connections.fast import FastTransport

        monkeypatch.setattr(core, "GrpcTransport", FastTransport)
    if param is None:
        yield
    else:
        yield from counted(request, monkeypatch, f"calls over {param}")
