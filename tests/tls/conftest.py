"""Certificates of one authority, and keepers that look at their files often."""

from __future__ import annotations

import pytest

from pymicro.identity import rereading
from tests.tls.fixtures import authority, over_both, transport

__all__ = ["authority", "transport"]

# Files whose tests are the same whatever carries the calls.
OVER_BOTH = {"test_client.py", "test_server.py", "test_callers.py", "test_load.py"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    over_both(metafunc, OVER_BOTH)


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no test waits a second for a look at the files."""
    monkeypatch.setattr(rereading, "PERIOD", 0.02)
