"""A server that shakes hands, serves nothing, and says why it does not like somebody.

asyncio's servers, aiohttp's too, drop the last word of a handshake that fails (an alert, RFC 8446, 6.2).
Servers in Go, such as etcd and Kubernetes' API server, say it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator

import grpc

__all__ = ["as_told", "outdated", "shaking_hands"]

# grpcio 1.68 does not say why a certificate does not pass; 1.85 does.
_OLD = tuple(int(part) for part in grpc.__version__.split(".")[:2]) < (1, 80)
_UNTOLD = "the node's certificate is not valid now, or comes from no authority of tls_ca"


def as_told(pattern: str, calling: str) -> str:
    """A pattern for what a client says of a node's certificate, as far as its transport is told."""
    knows = calling != "grpc" or not _OLD or "the node's certificate" not in pattern or "the name" in pattern
    return pattern if knows else f"{pattern}|{_UNTOLD}"


def outdated(context: ssl.SSLContext) -> ssl.SSLContext:
    """Have it speak TLS 1.0 and 1.1 only, whatever OpenSSL was built with."""
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


@contextlib.contextmanager
def shaking_hands(context: ssl.SSLContext) -> Iterator[int]:
    """Such a server on 127.0.0.1; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_accept, args=(listening, context))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            # An accept does not end when its socket is closed.
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listening: socket.socket, context: ssl.SSLContext) -> None:
    with contextlib.suppress(OSError):
        while True:
            _meet(listening.accept()[0], context)


def _meet(found: socket.socket, context: ssl.SSLContext) -> None:
    with (
        contextlib.suppress(OSError),
        context.wrap_socket(found, server_side=True, do_handshake_on_connect=False) as met,
    ):
        met.settimeout(10)
        with contextlib.suppress(ssl.SSLError):
            met.do_handshake()
        # A socket that is closed while something is unread resets, and takes the alert along.
        met.shutdown(socket.SHUT_WR)
        while met.recv(4096):
            pass
