"""The tests of the serving end run over grpc.aio's server, one in memory, and `fast` if it is built."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from tests.seams import counted, over_transports
from tests.serving import serving

# Files whose tests make calls, and are not about grpc.aio, sockets or processes.
BOTH = {
    "test_access_log.py",
    "test_admission.py",
    "test_dispatch.py",
    "test_foreign_interceptors.py",
    "test_gomicro_codecs.py",
    "test_gomicro_debug.py",
    "test_gomicro_errors.py",
    "test_gomicro_paths.py",
    "test_gomicro_timeout.py",
    "test_handler_errors.py",
    "test_health_and_reflection.py",
    "test_idempotent.py",
    "test_recording.py",
    "test_server_interceptors.py",
    "test_server_life_cycle.py",
    "test_slow_readers.py",
    "test_servicers.py",
    "test_yielded.py",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.path.name in BOTH and inspect.iscoroutinefunction(metafunc.function):
        over_transports(metafunc)


@pytest.fixture(autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `serving` serves on; counts the calls of the seam."""
    param = getattr(request, "param", None)
    monkeypatch.setattr(serving, "TRANSPORT", param or "grpc")
    if param is None:
        yield
    else:
        yield from counted(request, monkeypatch, f"served over {param}")
