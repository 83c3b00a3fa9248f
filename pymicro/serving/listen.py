"""Binding a port; if that fails, the error gives a reason that a person can act on."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING

from pymicro.base.errors import ConfigError, StartError
from pymicro.base.printable import excerpt, shortened
from pymicro.nodes.address import join_address, split_address

if TYPE_CHECKING:
    import grpc
    import grpc.aio

__all__ = ["listen", "probe", "why_not_bound"]


async def listen(
    server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None = None
) -> tuple[str, int]:
    """Bind `server` to `host:port`; an empty host means all interfaces, port 0 any free port.

    Args:
        server: Not started.
        address: Where to listen.
        credentials: Of TLS; None for plain text.

    Returns:
        The host (`::` for all interfaces if the address named none) and the real port.

    Raises:
        ConfigError: The address is malformed, or its host does not resolve.
        StartError: The port cannot be bound: taken, not on this machine, not allowed.
    """
    try:
        host, port = split_address(address)
    except ValueError as exc:
        raise ConfigError(f"server_address {excerpt(address)}: {exc}") from exc
    # grpc-core binds [::] for both families, and for IPv4 alone if there is no IPv6.
    host = host or "::"
    where = join_address(host, port)
    await probe(host, port)
    try:
        if credentials is not None:
            return host, server.add_secure_port(where, credentials)
        return host, server.add_insecure_port(where)
    except RuntimeError as exc:
        raise StartError(f"cannot listen on {where}: {exc}") from exc


async def probe(host: str, port: int) -> None:
    """Try an address with sockets of our own: grpc-core says only that it failed.

    Raises:
        ConfigError: The host does not resolve.
        StartError: The address cannot be bound; says why.
    """
    where = join_address(host, port)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as exc:
        raise ConfigError(
            f"server_address {shortened(where)}: {excerpt(host)} does not resolve ({exc})"
        ) from exc
    failures = []
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                # Bind as grpc-core does: a port in TIME_WAIT is free, a port with a listener is not.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as exc:
            failures.append(exc)
    taken = [exc for exc in failures if exc.errno == errno.EADDRINUSE]
    # A family that does not work (no IPv6 in a container) is no failure if another one works.
    if taken or len(failures) == len(found):
        raise StartError(why_not_bound((taken or failures)[0], where, port))


def why_not_bound(exc: OSError, where: str, port: int) -> str:
    """Why an address cannot be bound, and what to do."""
    if exc.errno == errno.EADDRINUSE:
        return (
            f"{where} is taken: another process listens there. "
            "Stop it, or choose another --server-address (port 0 takes any free port)"
        )
    if exc.errno == errno.EACCES:
        why = "ports below 1024 need privileges" if port < 1024 else "it is not allowed"
        return f"cannot listen on {where}: {why}"
    if exc.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {where}: this machine has no such address"
    return f"cannot listen on {where}: {os.strerror(exc.errno or 0)}"
