"""Certificates of one authority for both ends, for the time of a benchmark."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc

__all__ = ["FILES", "certified", "client_credentials", "files", "server_credentials", "settings"]

# Where they are, for processes that are started.
_VARIABLE = "BENCH_TLS"
FILES = ("tls.crt", "tls.key", "ca.crt")
# Of both ends, since each asks the other.
NAME = "greeter"


@contextmanager
def certified() -> Iterator[None]:
    """Have a folder with a certificate (ECDSA P-256, as most issuers make them), for child processes too."""
    import trustme

    with TemporaryDirectory(prefix="pymicro-bench-") as folder:
        ca = trustme.CA()
        leaf = ca.issue_cert(NAME)
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        found = (chain, leaf.private_key_pem.bytes(), ca.cert_pem.bytes())
        for name, contents in zip(FILES, found, strict=True):
            (Path(folder) / name).write_bytes(contents)
        os.environ[_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[_VARIABLE]


def files() -> list[str]:
    """Certificate, key and authority."""
    return [str(Path(os.environ[_VARIABLE]) / name) for name in FILES]


def settings() -> dict[str, Any]:
    """pymicro's, at either end."""
    return {"tls_dir": os.environ[_VARIABLE], "client_tls": "require"}


def _contents() -> list[bytes]:
    return [Path(path).read_bytes() for path in files()]


def client_credentials() -> grpc.ChannelCredentials:
    """grpc's."""
    chain, key, ca = _contents()
    return grpc.ssl_channel_credentials(ca, key, chain)


def server_credentials() -> grpc.ServerCredentials:
    """grpc's; clients have to show a certificate."""
    chain, key, ca = _contents()
    return grpc.ssl_server_credentials([(key, chain)], ca, require_client_auth=True)
