"""What tests of certificates and of tokens have in common: an authority, and either transport."""

from __future__ import annotations

from collections.abc import Container
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.tls.ends import Authority

__all__ = ["authority", "over_both", "transport"]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "certificates"
    folder.mkdir()
    return Authority(folder)


def over_both(metafunc: pytest.Metafunc, files: Container[str]) -> None:
    """Have the tests in these files run over both transports, if `fast` is built."""
    if metafunc.definition.path.name in files:
        fast = ["fast"] if find_spec("pymicro_fast") else []
        metafunc.parametrize("transport", ["grpc", *fast], indirect=True)


@pytest.fixture(autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What carries the calls of services in this test, and of clients that take it from the environment."""
    monkeypatch.delenv("MICRO_TRANSPORT", raising=False)
    chosen: str = getattr(request, "param", "")
    if chosen:
        monkeypatch.setenv("MICRO_TRANSPORT", chosen)
    return chosen
