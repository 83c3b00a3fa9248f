"""Certificates, an issuer of tokens, and looks at files without a wait."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from pymicro.identity import rereading, token_file
from tests.certificates import pem_of
from tests.tls.fixtures import authority, over_both, transport
from tests.tokens.issuer import Issuer, KeyServer

__all__ = ["authority", "transport"]

# Files whose tests are the same whatever carries the calls.
OVER_BOTH = {"test_calls.py", "test_sending.py", "test_call_credentials.py"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    over_both(metafunc, OVER_BOTH)


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    """Whose keys are in a file."""
    return Issuer(tmp_path / "jwks.json")


@pytest.fixture
def key_server(tmp_path: Path) -> Iterator[KeyServer]:
    """A server that answers over TLS with whatever it is told to."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with KeyServer(context, pem_of(authority), tmp_path) as server:
        yield server


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no test waits a second for a look at a file."""
    monkeypatch.setattr(rereading, "PERIOD", 0.02)
    monkeypatch.setattr(token_file, "FRESH", 0.0)
