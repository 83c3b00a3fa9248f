"""One client's connection to a server of transport `fast`."""

from __future__ import annotations

import asyncio
import math
import random
import socket
from collections.abc import Callable
from typing import Any, Protocol

import grpc

from pymicro.base.deadlines import deadlines_of
from pymicro.base.loggers import logger
from pymicro.rpc.fast.tls import speaks_http2
from pymicro.serving.fast.arguments import ServerArguments
from pymicro.serving.fast.call import CANCELLED_ALL, FastServedCall
from pymicro.serving.fast.session import ServingSession, starter
from pymicro.serving.transport import ServedMethods
from pymicro_fast import buffers_of
from pymicro_fast.wire import ACCEPTED

__all__ = ["Acceptor", "ServedConnection"]

log = logger("pymicro.server")

_FIXED = [(b"content-type", b"application/grpc"), (b"grpc-accept-encoding", ACCEPTED)]

# RFC 9113, section 7.
_ENHANCE_YOUR_CALM = 11

# grpc-core's, of servers: data that nobody acknowledges for so long ends the connection.
_UNACKNOWLEDGED_MS = 20_000
# gRFC A8: without permission, one ping in so many seconds is allowed between calls.
_IDLE_PINGS = 7200.0
# gRFC A9: connections that began together must not end together.
_JITTER = 0.1
# Our pings. A drain is one round trip: what a client sent before it knew of the drain has come by then.
_ALIVE = b"pymicro?"
_DRAIN = b"pymicro!"
# Seconds that a client may take for that round trip.
_ROUND_TRIP = 1.0
# Seconds. If the loop stood still, an answer may wait in the socket when a timer says that none came:
# this gives it a turn to be read.
_SECOND_LOOK = 0.05
# Seconds for the last bytes of a connection that is closed.
_GOODBYE = 1.0


class Acceptor(Protocol):
    """Who has accepted a connection; see `FastServerTransport`."""

    loop: asyncio.AbstractEventLoop
    arguments: ServerArguments
    methods: ServedMethods | None
    compression: grpc.Compression | None
    cancelled: set[asyncio.Task[Any]]

    def made(self, connection: ServedConnection) -> None:
        """A connection is there; `lost` follows."""
        ...

    def lost(self, connection: ServedConnection) -> None:
        """A connection has ended."""
        ...


class ServedConnection(ServingSession, asyncio.BufferedProtocol):
    """One socket's HTTP/2, with the timers that bound its life."""

    def __init__(self, listener: Acceptor) -> None:
        loop, arguments = listener.loop, listener.arguments
        super().__init__(
            loop,
            buffers_of(loop),
            accept=FastServedCall,
            fixed=_FIXED,
            max_message=arguments.max_receive,
            max_header_bytes=arguments.max_metadata,
            max_streams=arguments.streams,
        )
        assert listener.methods is not None
        self._listener = listener
        self._arguments = arguments
        self.loop = loop
        self.deadlines = deadlines_of(loop)
        self.methods = listener.methods
        self.start = starter(loop)
        self.running = set()
        self.most_running = arguments.streams
        self.cancelled = listener.cancelled
        self.compression = listener.compression
        self.max_sent = arguments.max_send
        self.peer = "unknown"
        self.encryption = None
        self.peer_facts = None
        self._greeted = False
        self._draining = False
        self._said_goodbye = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._seen = 0  # bytes received when the keepalive timer was set
        self._last_ping = -math.inf
        self._strikes = 0

    # Its beginning

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.BaseProtocol`."""
        super().connection_made(transport)
        arguments = self._arguments
        self._listener.made(self)
        self.encryption = transport.get_extra_info("ssl_object")
        if self.encryption is not None and not speaks_http2(transport):
            self.abort("it has not agreed to speak HTTP/2 (ALPN)")
        found = transport.get_extra_info("socket")
        self.peer = _peer(found.family, transport.get_extra_info("peername"))
        if found.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_USER_TIMEOUT"):
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        self._after(arguments.handshake, "handshake", self._silent)
        if arguments.age is not None:
            age = arguments.age * random.uniform(1 - _JITTER, 1 + _JITTER)
            self._after(age, "age", self._old)

    def settings_received(self) -> None:
        """See `Session`."""
        if self._greeted:
            return
        self._greeted = True
        self._forget("handshake")
        if self._arguments.keepalive is not None:
            self._listen_on()
        if self._arguments.idle is not None:
            self._after(self._arguments.idle, "idle", self._idle, 0)

    def _forget(self, name: str) -> None:
        before = self._timers.pop(name, None)
        if before is not None:
            before.cancel()

    def _after(self, pause: float, name: str, what: Callable[..., None], *arguments: Any) -> None:
        self._forget(name)
        self._timers[name] = self.loop.call_later(pause, what, *arguments)

    def _silent(self) -> None:
        self.abort(f"it has not spoken HTTP/2 for {self._arguments.handshake:g} s")

    def _old(self) -> None:
        self.drain()
        grace = self._arguments.age_grace
        if grace is not None:
            self._after(grace, "age", self.cut, "max_connection_age and its grace have passed")

    def _idle(self, last: int) -> None:
        """There was no call since this timer fired last, so for its time at least."""
        assert self._arguments.idle is not None
        if last and last == self.last_stream_id + 1 and not self.open_streams:
            self.drain()
        else:
            self._after(self._arguments.idle, "idle", self._idle, self.last_stream_id + 1)

    # Pings

    def _listen_on(self) -> None:
        """Look again after a while whether anything has come."""
        self._seen = self.received
        pause = self._arguments.keepalive
        assert pause is not None
        self._after(pause, "keepalive", self._ask)

    def _ask(self) -> None:
        if self.received != self._seen:
            self._listen_on()
            return
        self.ping(_ALIVE)
        self._after(self._arguments.ping_timeout, "keepalive", self._unanswered)

    def _unanswered(self) -> None:
        self._after(_SECOND_LOOK, "keepalive", self._dead)

    def _dead(self) -> None:
        if self.received != self._seen:
            self._listen_on()
            return
        self.abort(f"a keepalive ping was not answered within {self._arguments.ping_timeout:g} s")

    def pong_received(self, payload: bytes) -> None:
        """See `Session`."""
        if payload == _DRAIN and self._draining:
            self._say_goodbye()

    def pings_received(self, count: int) -> None:
        """See `Session`; grpc-core's rules (gRFC A8, "Server Enforcement")."""
        arguments, now = self._arguments, self.loop.time()
        if self.replied:
            self.replied = False
            self._strikes, self._last_ping = 0, -math.inf
        between_calls = not arguments.idle_pings and not self.open_streams
        early = now < self._last_ping + (_IDLE_PINGS if between_calls else arguments.min_ping)
        self._last_ping = now
        self._strikes += count if early else count - 1
        if 0 < arguments.ping_strikes < self._strikes:
            self.cut("it sent too many pings", _ENHANCE_YOUR_CALM, b"too_many_pings")

    # Its end

    def drain(self) -> None:
        """Take no more calls, and close once those that are there have ended."""
        if self._draining:
            return
        self._draining = True
        if not self._greeted:
            self.terminate("nothing has come yet")
            return
        self.announce_shutdown()
        self.ping(_DRAIN)
        self._after(_ROUND_TRIP, "drain", self._say_goodbye)

    def _say_goodbye(self) -> None:
        if not self._said_goodbye:
            self._said_goodbye = True
            self._forget("drain")
            self.goaway(self.last_stream_id)  # the engine closes after the last stream

    def cut(self, reason: str, code: int = 0, text: bytes = b"") -> None:
        """End its calls, and close it once they have their status, or soon.

        Args:
            reason: For our log.
            code: HTTP/2's code, for the client.
            text: What the client is told besides.
        """
        for call in list(self.running):
            call.fail(grpc.StatusCode.UNAVAILABLE, CANCELLED_ALL)
        if self._greeted:
            self._said_goodbye = True
            self.goaway(self.last_stream_id, code, text)  # the engine closes after the last stream
        else:
            self.terminate(reason, code)
        self._after(_GOODBYE, "cut", self.abort, reason)

    def lost(self, reason: Any) -> None:
        """See `Session`."""
        log.debug("the connection of %s has ended: %s", self.peer, reason)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._listener.lost(self)

    def mishap(self, error: Exception) -> None:
        """See `Session`."""
        log.error("a call of %s could not be handled", self.peer, exc_info=error)


def _peer(family: int, address: Any) -> str:
    """An address in grpc's form."""
    if family == socket.AF_UNIX:
        return "unix:"  # a client's end has no name
    host, port = address[:2]
    if family == socket.AF_INET6:
        if not host.startswith("::ffff:"):
            return f"ipv6:%5B{host}%5D:{port}"
        host = host.removeprefix("::ffff:")  # IPv4, on a socket of both families
    return f"ipv4:{host}:{port}"
