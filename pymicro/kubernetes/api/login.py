"""What goes with each request, as it was read at one moment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Login", "LoginSource", "Signature", "Tls", "certificates", "signatures"]

# (path, inode, size, time of change) of a file, or None where there is none. An
# inode is part of it because Kubernetes swaps a symbolic link to rotate a token.
Signature = tuple[str, tuple[int, int, int] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What a connection is secured with; another value means other connections.

    Attributes:
        authority: PEM of the certificates to trust; empty for those of the system.
        certificate: PEM of the certificate to show; empty to show none.
        key: PEM of its key.
        verify: Whether the server's certificate is checked.
        server_name: The name that it must have; empty for the URL's host.
    """

    authority: str = ""
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    verify: bool = True
    server_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Everything needed to send a request, as it was when it was read.

    Attributes:
        server: The URL without a trailing slash.
        authorization: The header's value; empty to send none.
        impersonation: The headers that name the account to act as.
        tls: For connections to the server.
        proxy: The URL of the proxy to ask through; empty for none.
        files: The files it was read from, and their state just before.
        lifetime: Seconds until it must be read again; None if it does not run out by itself.
    """

    server: str
    authorization: str = field(default="", repr=False)
    impersonation: tuple[tuple[str, str], ...] = ()
    tls: Tls = Tls()
    proxy: str = field(default="", repr=False)
    files: tuple[Signature, ...] = ()
    lifetime: float | None = None


class LoginSource(Protocol):
    """Where credentials come from."""

    async def read(self) -> Login:
        """Read all of it now.

        Raises:
            KubeError: It cannot be read, and why.
        """
        ...


def signatures(paths: Iterable[str]) -> tuple[Signature, ...]:
    """The state of files, which differs once one of them has changed."""

    def of(path: str) -> Signature:
        try:
            found = os.stat(path)
        except OSError:
            return path, None
        return path, (found.st_ino, found.st_size, found.st_mtime_ns)

    return tuple(of(path) for path in paths)


def certificates(pem: bytes) -> str:
    """The certificates in a PEM file, without what people write between them.

    Raises:
        ValueError: There is none.
    """
    # Comments there need not be ASCII, and Python's TLS takes nothing else.
    found = re.findall(rb"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----", pem)
    if not found:
        raise ValueError("there is no certificate in it")
    return b"\n".join(found).decode("ascii")
