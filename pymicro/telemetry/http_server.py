"""A small HTTP/1.1 server for pages that operators read: GET and HEAD, and everything bounded.

It runs in the event loop of a service, which has better things to do. So whoever can reach the port,
and whatever is sent to it, costs a bounded number of connections, bytes, seconds and turns of the loop.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from ipaddress import ip_address
from math import inf
from types import TracebackType
from typing import Self

from pymicro.base.errors import ConfigError, StartError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt, shortened
from pymicro.base.tasks import Tasks
from pymicro.nodes.address import join_address

__all__ = ["HttpAnswer", "HttpLimits", "HttpRequest", "HttpServer", "listen"]

log = logger("pymicro.admin")

# Seconds between two lines in the log about the same port: strangers must not fill it.
QUIET = 60.0
# Seconds until the next try, after the system could not accept a connection (no descriptors are left).
RETRY = 1.0
# After an answer that ends a connection, what the peer still sends is read for so long, and so much of
# it: closing a socket with unread bytes resets it, and the peer may never see the answer (RFC 9112, 9.6).
LINGER = 1.0
LINGER_BYTES = 1 << 16
# Connections that the kernel holds for us. Beyond them it lets callers try again.
BACKLOG = 128

_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """How much strangers may cost.

    Attributes:
        connections: Connections at a time. If one more comes, the one that has waited longest for
            its next request is closed.
        head: Bytes of a request, all of its headers included.
        request: Seconds for a request to come, from its first byte on.
        idle: Seconds until the next request of a connection begins.
        write: Seconds for the peer to take an answer.
        rate: Connections, and requests, that are taken in a second; more wait.
        burst: How many of them may come at once.
    """

    connections: int = 64
    head: int = 8192
    request: float = 5.0
    idle: float = 60.0
    write: float = 10.0
    rate: float = 500.0
    burst: int = 100


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request for a page.

    Attributes:
        method: `GET` or `HEAD`.
        path: Without host and query.
        headers: By name in small letters.
        keep: Whether the connection goes on after the answer.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    keep: bool


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What is answered.

    Attributes:
        status: HTTP's number.
        body: All of it; not sent to HEAD.
        content_type: Of the body.
        headers: More of them.
    """

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[HttpRequest], Awaitable[HttpAnswer]]


async def listen(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket; an empty host means all addresses, port 0 any free port.

    Args:
        host: An address or a name; of a name that has several, the first that works.
        port: The port.
        setting: The setting's name, for messages.

    Raises:
        ConfigError: The host does not resolve.
        StartError: The port is taken, or cannot be had.
    """
    where = f"{setting} {join_address(host, port)}"
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as exc:
        raise ConfigError(f"{shortened(where)}: {excerpt(host)} does not resolve ({exc})") from exc
    if not host and socket.has_dualstack_ipv6():
        found = [item for item in found if item[0] is socket.AF_INET6] or found
    failure: OSError | None = None
    for family, _, _, _, address in found:
        try:
            listening = socket.create_server(
                address[:2],
                family=family,
                backlog=BACKLOG,
                dualstack_ipv6=not host and family is socket.AF_INET6,
            )
        except OSError as exc:
            failure = failure or exc
            continue
        listening.setblocking(False)
        return listening
    assert failure is not None
    if failure.errno == errno.EADDRINUSE:
        raise StartError(
            f"{where} is taken: another process, or another service of this one, listens there. "
            "Stop it, or choose another address (port 0 takes any free port, `off` takes none)"
        ) from failure
    why = "ports below 1024 need privileges" if failure.errno == errno.EACCES and port < 1024 else ""
    why = why or os.strerror(failure.errno or 0)
    raise StartError(f"cannot listen on {where}: {why}") from failure


class HttpServer:
    """Serves pages on one socket, while the context is open.

    Args:
        listening: The socket, as `listen` makes it; closed at the end.
        answer: Answers one request. What it raises becomes a 500, and a line in the log.
        limits: How much strangers may cost.
    """

    def __init__(self, listening: socket.socket, answer: Handler, limits: HttpLimits | None = None) -> None:
        self._socket = listening
        self._answer = answer
        self._limits = limits or HttpLimits()
        self._tasks = Tasks("admin port")
        # Those that wait for a request come in the order in which they began to.
        self._connections: set[_Connection] = set()
        self._waiting: dict[_Connection, None] = {}
        self._accepted = _Rate(self._limits)
        self._requested = _Rate(self._limits)
        self._told = -inf
        self._untold = 0
        # A page in a browser may reach ports of its own machine, under a name that it controls (DNS
        # rebinding). Others may ask by any name: that of a Service of Kubernetes, say.
        self._by_address_only = _is_loopback(listening.getsockname()[0])

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._tasks.start(self._accept(), "accept")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End every connection at once."""
        try:
            await self._tasks.__aexit__(kind, exc, traceback)
        finally:
            self._socket.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._accepted.take()
            try:
                peer, _ = await loop.sock_accept(self._socket)
            except OSError as exc:
                self._tell(f"cannot take connections: {exc.strerror or exc}")
                await asyncio.sleep(RETRY)
                continue
            connection = _Connection()
            if len(self._connections) >= self._limits.connections and not self._evict():
                peer.close()
                self._tell("has as many connections as it takes, and refuses more")
                continue
            self._connections.add(connection)
            self._tasks.start(self._serve(connection, peer), "connection")

    def _evict(self) -> bool:
        """Close the connection that has waited longest for a request; False if none waits."""
        longest = next(iter(self._waiting), None)
        if longest is None or longest.writer is None:
            return False
        del self._waiting[longest]
        self._connections.discard(longest)
        longest.writer.transport.abort()
        self._tell("has as many connections as it takes: it closes those that wait longest")
        return True

    async def _serve(self, connection: _Connection, peer: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=self._limits.head)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, peer)
        except BaseException as exc:
            peer.close()
            self._connections.discard(connection)
            if isinstance(exc, OSError):  # it has gone already
                return
            raise
        # So that `drain` waits until the kernel has all: nothing is left for an end that waits.
        transport.set_write_buffer_limits(high=0)
        writer = connection.writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            while await self._exchange(connection, reader, writer):
                pass
        except (OSError, EOFError, TimeoutError):
            pass  # the peer has gone, or is too slow
        except Exception as exc:
            self._tell("lost a connection", exc)
        finally:
            self._waiting.pop(connection, None)
            self._connections.discard(connection)
            transport.abort()

    async def _exchange(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Take one request and answer it; returns whether another may come."""
        limits = self._limits
        self._waiting[connection] = None
        try:
            async with asyncio.timeout(limits.idle if connection.used else limits.request):
                first = await reader.readexactly(1)
            async with asyncio.timeout(limits.request):
                head = first + await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            await self._refuse(writer, reader, HttpAnswer(431, b"the request is too long\n"))
            return False
        finally:
            self._waiting.pop(connection, None)
        connection.used = True
        await self._requested.take()
        request = parse(head, by_address_only=self._by_address_only)
        if isinstance(request, HttpAnswer):
            await self._refuse(writer, reader, request)
            return False
        try:
            answer = await self._answer(request)
        except Exception as exc:
            self._tell(f"cannot make {request.path}", exc)
            answer = HttpAnswer(500, b"this page cannot be made: the log says why\n")
        await self._write(writer, answer, body=request.method == "GET", keep=request.keep)
        return request.keep

    async def _refuse(
        self, writer: asyncio.StreamWriter, reader: asyncio.StreamReader, answer: HttpAnswer
    ) -> None:
        await self._write(writer, answer, body=True, keep=False)
        writer.write_eof()
        left = LINGER_BYTES
        async with asyncio.timeout(LINGER):
            while left > 0 and (more := await reader.read(4096)):
                left -= len(more)

    async def _write(
        self, writer: asyncio.StreamWriter, answer: HttpAnswer, *, body: bool, keep: bool
    ) -> None:
        lines = {
            "Content-Type": answer.content_type,
            "Content-Length": str(len(answer.body)),
            "Date": formatdate(usegmt=True),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Connection": "keep-alive" if keep else "close",
            **answer.headers,
        }
        head = "".join(f"{name}: {text}\r\n" for name, text in lines.items())
        status = f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n"
        async with asyncio.timeout(self._limits.write):
            writer.write(f"{status}{head}\r\n".encode() + (answer.body if body else b""))
            await writer.drain()

    def _tell(self, text: str, bug: Exception | None = None) -> None:
        """Log a warning, unless one was logged a moment ago."""
        now = asyncio.get_running_loop().time()
        if now - self._told < QUIET:
            self._untold += 1
            return
        more = f" ({self._untold} more since the last such line)" if self._untold else ""
        self._told, self._untold = now, 0
        log.warning("the admin port %s%s", text, more, exc_info=bug)


class _Connection:
    """One connection.

    Attributes:
        writer: Its writing end; None before it has one.
        used: Whether it has had a request.
    """

    def __init__(self) -> None:
        self.writer: asyncio.StreamWriter | None = None
        self.used = False


class _Rate:
    """Lets so many pass in a second, and a burst of them at once."""

    def __init__(self, limits: HttpLimits) -> None:
        self._interval = 1 / limits.rate
        self._slack = limits.burst / limits.rate
        self._next = -inf

    async def take(self) -> None:
        """Return when the next one may pass."""
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now - self._slack) + self._interval
        if self._next > now:
            await asyncio.sleep(self._next - now)


def parse(head: bytes, *, by_address_only: bool = False) -> HttpRequest | HttpAnswer:
    """A request's first line and headers, to the empty line; the answer if it is refused.

    Args:
        head: As it came.
        by_address_only: Whether to refuse requests to another host than an address or localhost.
    """
    first, *lines = head.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/"):
        return HttpAnswer(400, b"this is no request of HTTP/1.1\n")
    method, target, version = words
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        return HttpAnswer(505, b"this port speaks HTTP/1.1; gRPC has a port of its own\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, text = line.partition(":")
        # No space before the colon, and none in front (RFC 9112, 5.1 and 5.2).
        if not colon or not name or name != name.strip():
            return HttpAnswer(400, b"a header cannot be read\n")
        headers[name.lower()] = text.strip()
    if method not in ("GET", "HEAD"):
        return HttpAnswer(
            405, b"there are only pages to read here: GET or HEAD\n", headers={"Allow": "GET, HEAD"}
        )
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        return HttpAnswer(400, b"a request for a page has no body\n")
    host = headers.get("host")
    if host is None and version == "HTTP/1.1":
        return HttpAnswer(400, b"the header Host is missing\n")
    if by_address_only and host and not _is_address(host):
        return HttpAnswer(403, b"ask this port by its address, or as localhost\n")
    if target.lower().startswith("http://"):  # as proxies are asked (RFC 9112, 3.2.2)
        target = "/" + target[7:].partition("/")[2]
    path = target.partition("?")[0]
    keep = version == "HTTP/1.1" and "close" not in headers.get("connection", "").lower()
    return HttpRequest(method, path, headers, keep)


def _is_address(host: str) -> bool:
    """Whether a Host header names an address, or this machine."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return ip_address(host.partition("%")[0]).is_loopback
