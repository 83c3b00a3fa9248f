"""Certificates for tests, made anew in each run: two authorities, a server of each, a client of the first.

The servers are 127.0.0.1 and kubernetes.default.svc; the client is `ada`.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

__all__ = ["ADA", "ADA_KEY", "NEW_CA", "OLD_CA", "new_server", "old_server"]

_OLD, _NEW = trustme.CA(), trustme.CA()


def _pem(*blobs: trustme.Blob) -> str:
    return "".join(blob.bytes().decode() for blob in blobs)


OLD_CA, NEW_CA = _pem(_OLD.cert_pem), _pem(_NEW.cert_pem)

_ada = _OLD.issue_cert(common_name="ada")
ADA, ADA_KEY = _pem(*_ada.cert_chain_pems), _pem(_ada.private_key_pem)


def _server(authority: trustme.CA, folder: Path) -> ssl.SSLContext:
    chain = folder / "server.pem"
    authority.issue_cert("127.0.0.1", "kubernetes.default.svc").private_key_and_cert_chain_pem.write_to_path(
        str(chain)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context


def old_server(folder: Path, *, clients: bool = False) -> ssl.SSLContext:
    """A server of the old authority; with `clients` only for those who have its certificate."""
    context = _server(_OLD, folder)
    if clients:
        context.load_verify_locations(cadata=OLD_CA)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def new_server(folder: Path) -> ssl.SSLContext:
    """A server of the new authority."""
    return _server(_NEW, folder)
