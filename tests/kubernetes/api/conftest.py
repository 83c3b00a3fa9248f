"""Fixtures of the tests of credentials."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.api.logins import Account, Clock


@pytest.fixture
def account(tmp_path: Path) -> Account:
    return Account(tmp_path / "serviceaccount")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def no_files_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python takes certificates from files; none may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    gc.collect()
    assert list(folder.iterdir()) == []
