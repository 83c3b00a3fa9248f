"""The sockets that a server of transport `fast` listens on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from pymicro.base.errors import ConfigError, StartError
from pymicro.base.printable import excerpt, shortened
from pymicro.nodes.address import join_address, split_address
from pymicro.serving.listen import probe, why_not_bound

__all__ = ["bound", "unlink"]

# Connections that the kernel keeps until they are accepted; it has a limit of its own.
_BACKLOG = 1024
# Two families cannot always have the same free port: so often another one is tried.
_ATTEMPTS = 16
# grpc-core takes the wildcard of either family for both.
_WILDCARDS = frozenset({"", "0.0.0.0", "::"})


async def bound(address: str, *, reuse_port: bool) -> tuple[list[socket.socket], tuple[str, int]]:
    """Listening sockets for `host:port`, or for `unix:path`.

    Returns:
        The sockets, and the host (as `listen` gives it) and port; of a Unix socket the address and 0.

    Raises:
        ConfigError: The address is malformed, or its host does not resolve.
        StartError: It cannot be bound.
    """
    if address.startswith(("unix:", "unix-abstract:")):
        return [_unix(address)], (address, 0)
    try:
        host, port = split_address(address)
    except ValueError as exc:
        raise ConfigError(f"server_address {excerpt(address)}: {exc}") from exc
    named = host or "::"
    if not reuse_port:
        await probe(named, port)  # which says best what is wrong
    for attempt in range(_ATTEMPTS):
        try:
            found = _tcp(named, port, reuse_port)
        except OSError as exc:
            if port == 0 and exc.errno == errno.EADDRINUSE and attempt + 1 < _ATTEMPTS:
                continue
            raise StartError(why_not_bound(exc, join_address(named, port), port)) from exc
        return found, (named, found[0].getsockname()[1])
    raise AssertionError("the last attempt raises")


def _tcp(host: str, port: int, reuse_port: bool) -> list[socket.socket]:
    if host in _WILDCARDS:
        with contextlib.suppress(OSError):  # no IPv6 here: then IPv4 alone
            return [_listening(socket.AF_INET6, ("::", port), reuse_port, both=True)]
        return [_listening(socket.AF_INET, ("0.0.0.0", port), reuse_port)]  # as asked for
    found: list[socket.socket] = []
    failures: list[OSError] = []
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if found:
            address = (address[0], found[0].getsockname()[1], *address[2:])
        try:
            found.append(_listening(family, address, reuse_port))
        except OSError as exc:
            # A family that does not work is no failure if another one works; a port that is taken is.
            failures.append(exc)
    taken = [exc for exc in failures if exc.errno == errno.EADDRINUSE]
    if taken or not found:
        for one in found:
            one.close()
        raise (taken or failures)[0]
    return found


def _listening(
    family: int, address: tuple[object, ...], reuse_port: bool, both: bool = False
) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        made.bind(address)
        made.listen(_BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


def _unix(address: str) -> socket.socket:
    scheme, _, path = address.partition(":")
    if scheme == "unix-abstract":
        name = "\0" + path
    else:
        name = path.removeprefix("//") if path.startswith("///") else path
        if not name:
            raise ConfigError(f"server_address {excerpt(address)} names no file")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        if scheme == "unix":
            _remove_stale(name)
        made.bind(name)
        made.listen(_BACKLOG)
    except OSError as exc:
        made.close()
        if exc.errno == errno.EADDRINUSE:
            raise StartError(
                f"{shortened(address, 500)} is taken: somebody listens there, or it is no socket"
            ) from exc
        raise StartError(f"cannot listen on {shortened(address, 500)}: {exc.strerror or exc}") from exc
    return made


def _remove_stale(path: str) -> None:
    """Remove a socket's file if nobody listens there, as a process leaves it that was killed."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return  # somebody is there, and has no time


def unlink(address: str) -> None:
    """Remove a Unix socket's file."""
    scheme, _, path = address.partition(":")
    if scheme == "unix":
        with contextlib.suppress(OSError):
            os.unlink(path.removeprefix("//") if path.startswith("///") else path)
