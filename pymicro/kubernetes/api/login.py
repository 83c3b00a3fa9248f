"""What goes with each request, as it was read at one moment, and the library that reads it."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Login", "LoginSource", "library", "read_login", "signatures"]

# (path, inode, size, time of change) of a file, or None where there is none. An
# inode is part of it because Kubernetes swaps a symbolic link to rotate a token.
Signature = tuple[str, tuple[int, int, int] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Everything needed to send a request, as it was when it was read.

    Attributes:
        configuration: kubernetes_asyncio's, from which a transport is built.
        server: The URL without a trailing slash.
        authorization: The header's value; empty to send none.
        tls: What a transport depends on: another value means another transport.
        files: The files it was read from, and their state just before.
        lifetime: Seconds until it must be read again; None if it does not run out by itself.
    """

    configuration: Any
    server: str
    authorization: str
    tls: tuple[object, ...]
    files: tuple[Signature, ...]
    lifetime: float | None = None


class LoginSource(Protocol):
    """Where credentials come from."""

    async def read(self) -> Login:
        """Read all of it now.

        Raises:
            KubeError: It cannot be read, and why.
        """
        ...

    def close(self) -> None:
        """Remove what was written for it."""
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


def read_login(configuration: Any, files: tuple[Signature, ...], lifetime: float | None = None) -> Login:
    """The login that a filled Configuration of kubernetes_asyncio means."""
    given = configuration
    # Each watch holds a connection: with the library's default, a process could watch 100 services only.
    given.connection_pool_maxsize = 0
    certificates = [path for path in (given.ssl_ca_cert, given.cert_file, given.key_file) if path]
    return Login(
        configuration=given,
        server=given.host.rstrip("/"),
        # A token file may end in a newline, which no header may.
        authorization=str(given.api_key.get("BearerToken") or "").strip(),
        tls=(given.host, signatures(certificates), given.verify_ssl, given.tls_server_name, given.proxy),
        files=files,
        lifetime=lifetime,
    )


async def library() -> Any:
    """kubernetes_asyncio, with the modules that are used here.

    The first call imports it in a thread: that takes 0.4 s, and calls must go on meanwhile.
    """
    if _import.cache_info().currsize:
        return _import()
    return await asyncio.to_thread(_import)


@functools.cache
def _import() -> Any:
    import kubernetes_asyncio.client.rest
    import kubernetes_asyncio.config.exec_provider
    import kubernetes_asyncio.config.incluster_config
    import kubernetes_asyncio.config.kube_config

    return kubernetes_asyncio
