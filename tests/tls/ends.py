"""Services with certificates, and foreign ends of grpc.aio for them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from greeter.v1 import greeter_pb2_grpc as rpc
from tests.certificates import Folder, chain_of, issue, key_of, pem_of

__all__ = ["Authority", "foreign_channel", "pairings", "stub"]


class Authority:
    """An authority, and folders with certificates of it."""

    def __init__(self, path: Path) -> None:
        self.ca = trustme.CA()
        self._path = path

    def folder(self, *names: str, **given: Any) -> Folder:
        """A new folder with a certificate for these names."""
        folder = Folder(self._path / f"{names[0]}-{len(list(self._path.iterdir()))}")
        folder.issue(self.ca, *names, **given)
        return folder

    def ca_file(self) -> str:
        """A file with the authority alone."""
        path = self._path / "only-ca.pem"
        path.write_bytes(pem_of(self.ca))
        return str(path)


def foreign_channel(
    address: str, ca: trustme.CA, *, own: str = "", name: str = "greeter", shown_by: trustme.CA | None = None
) -> grpc.aio.Channel:
    """A channel of grpc.aio's own over TLS.

    Args:
        address: `host:port`.
        ca: Which authority's servers it believes.
        own: The name in the certificate that it shows; empty for none.
        name: Whose certificate it expects.
        shown_by: The authority of its own certificate, if that is another one.
    """
    leaf = issue(shown_by or ca, own) if own else None
    credentials = grpc.ssl_channel_credentials(
        pem_of(ca),
        key_of(leaf) if leaf is not None else None,
        chain_of(leaf) if leaf is not None else None,
    )
    return grpc.aio.secure_channel(address, credentials, options=[("grpc.ssl_target_name_override", name)])


def stub(channel: Any) -> Any:
    """The greeter's."""
    return rpc.GreeterStub(channel)


def pairings() -> list[Any]:
    """Server's and client's transport: all that are installed."""
    kinds = ["grpc", "fast"] if find_spec("pymicro_fast") else ["grpc"]
    return [pytest.param(server, client, id=f"{server}-{client}") for server in kinds for client in kinds]
