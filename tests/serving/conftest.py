"""The suite of the serving end runs on two transports: grpc.aio's server, and one in memory."""

from __future__ import annotations

import inspect

import pytest

from tests.serving import serving


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of a module with the mark `transports` run on both, but for those marked `grpc_only(why)`."""
    mark = metafunc.definition.get_closest_marker
    if mark("transports") and not mark("grpc_only") and inspect.iscoroutinefunction(metafunc.function):
        metafunc.parametrize("transport", ["grpc.aio", "memory"], indirect=True)


@pytest.fixture(autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `serving` serves on."""
    monkeypatch.setattr(serving, "TRANSPORT", getattr(request, "param", "grpc.aio"))
