"""A connection to one node: a socket with HTTP/2, made again as often as it is lost."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

import grpc

from pymicro.base.printable import shortened
from pymicro.calling.connections.fast.calls import CallStarter
from pymicro.calling.connections.tls_words import with_sentence
from pymicro.rpc.fast.tls import SHUTDOWN, speaks_http2
from pymicro_fast import Session, buffers_of
from pymicro_fast.wire import ACCEPTED

if TYPE_CHECKING:
    from pymicro.calling.connections.fast.arguments import Arguments

__all__ = ["ClientSession", "FastConnection", "told"]

_IDLE = grpc.ChannelConnectivity.IDLE
_CONNECTING = grpc.ChannelConnectivity.CONNECTING
_READY = grpc.ChannelConnectivity.READY
_FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE
_SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN

# grpc's connection-backoff.md.
_FACTOR = 1.6
_JITTER = 0.2
# Seconds. If the loop stood still, an answer may wait in the socket when a timer says that none came:
# this gives it a turn to be read.
_SECOND_LOOK = 0.05
# Seconds for the last bytes of a connection that is closed.
_GOODBYE = 1.0


class ClientSession(Session, asyncio.BufferedProtocol):
    """One socket's HTTP/2; tells its connection what happens to it.

    Attributes:
        draining: It takes no more calls.
        gone: Done when the connection is lost, with the reason.
        greeted: Done when the peer's settings have come.
    """

    def __init__(self, connection: FastConnection, arguments: Arguments) -> None:
        loop = connection.loop
        super().__init__(
            loop,
            buffers_of(loop),
            fixed=[
                (b"content-type", b"application/grpc"),
                (b"user-agent", arguments.user_agent.encode("ascii", "replace")),
                (b"grpc-accept-encoding", ACCEPTED),
            ],
            scheme=b"http" if arguments.context is None else b"https",
            authority=arguments.authority.encode("utf-8"),
            max_message=arguments.max_receive,
            max_header_bytes=arguments.max_metadata,
        )
        self.connection = connection
        self.draining = False
        self.gone: asyncio.Future[Any] = loop.create_future()
        self.greeted: asyncio.Future[None] = loop.create_future()

    def settings_received(self) -> None:
        if not self.greeted.done():
            self.greeted.set_result(None)
        self.connection.more_streams(self)

    def stream_ended(self) -> None:
        self.connection.more_streams(self)

    def goaway_received(self, last_stream_id: int, error: int, text: bytes) -> None:
        if b"ping" in text:
            self.connection.ping_less()
        self.connection.drained(
            self, f"the peer said GOAWAY {shortened(text.decode('utf-8', 'replace'))}".rstrip()
        )

    def pong_received(self, payload: bytes) -> None:
        self.connection.pong()

    def lost(self, reason: Any) -> None:
        self.connection.drained(self, reason)
        self.connection.sessions.discard(self)
        if not self.greeted.done():
            self.greeted.cancel()
        if not self.gone.done():
            self.gone.set_result(reason)


class FastConnection(CallStarter):
    """See `NodeConnection`; states and backoff are grpc-core's (connectivity-semantics-and-api.md).

    Attributes:
        session: The session for new calls; None unless it is READY.
        sessions: All that have a socket: those that drain too.
    """

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments)
        self.session: ClientSession | None = None
        self.sessions: set[ClientSession] = set()
        self._dialling: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._backoff = arguments.first_backoff
        self._keepalive: asyncio.TimerHandle | None = None
        self._pinged = False
        self._interval = arguments.keepalive or 0.0

    # Connecting

    def connect(self) -> None:
        """See `CallStarter`."""
        self._again = None
        self.become(_CONNECTING)
        # In a context of its own: whose call happens to need it first is nothing to the connection.
        self._dialling = self.loop.create_task(
            self._connect(), name=f"connecting to {self.arguments.authority}", context=Context()
        )

    async def _connect(self) -> None:
        """One attempt: to READY, or to TRANSIENT_FAILURE and, after a pause, the next one."""
        began = self.loop.time()
        pause, arguments = self._backoff, self.arguments
        session: ClientSession | None = None
        try:
            async with asyncio.timeout(max(pause, arguments.connect_timeout)):
                session = await self._open()
                await session.greeted
        except asyncio.CancelledError:
            if session is None or not session.greeted.cancelled() or self.closing:
                if session is not None:
                    session.abort("closed here")
                raise
            # The socket was closed instead of a greeting.
            self._failed(f"the peer ended the connection before it spoke HTTP/2: {session.reason}", began)
        except TimeoutError:
            where = "it does not answer" if session is None else "it does not speak HTTP/2"
            if session is not None:
                session.abort("it did not answer in time")
            self._failed(f"{where} ({self.loop.time() - began:.1f} s)", began)
        except Exception as exc:
            self._failed(_words(exc), began)
        else:
            if session.usable and not session.draining:
                self._ready(session)
            else:
                self._failed(f"the peer ended the connection at once: {session.reason}", began)
        finally:
            self._dialling = None

    async def _open(self) -> ClientSession:
        arguments = self.arguments

        def session() -> ClientSession:
            return ClientSession(self, arguments)

        secured: dict[str, Any] = {}
        if arguments.context is not None:
            secured = {
                "ssl": arguments.context,
                "server_hostname": arguments.server_name,
                "ssl_shutdown_timeout": SHUTDOWN,
            }
        if arguments.port is None:
            _, made = await self.loop.create_unix_connection(session, arguments.host, **secured)
        else:
            _, made = await self.loop.create_connection(
                session, arguments.host or "localhost", arguments.port, **secured
            )
            if secured and not speaks_http2(made.transport):
                made.abort("it speaks no HTTP/2")
                raise ConnectionError("it has not agreed to speak HTTP/2 (ALPN)")
            if arguments.unacknowledged is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
                made.transport.get_extra_info("socket").setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(arguments.unacknowledged * 1000)
                )
        self.sessions.add(made)
        return made

    def _failed(self, reason: str, began: float) -> None:
        arguments = self.arguments
        self.reason = reason
        pause = self._backoff * random.uniform(1 - _JITTER, 1 + _JITTER)
        self._backoff = min(self._backoff * _FACTOR, arguments.most_backoff)
        self._again = self.loop.call_at(max(began + pause, self.loop.time()), self.connect, context=Context())
        self.become(_FAILED)

    def _ready(self, session: ClientSession) -> None:
        self.session = session
        self._backoff = self.arguments.first_backoff
        self.become(_READY)
        self._pinged = False
        if self._interval:
            self._keepalive = self._later(self._interval, self._ping)
        self.more_streams(session)

    def unreachable(self) -> str:
        """See `CallStarter`."""
        where = self.arguments
        address = f"unix:{where.host}" if where.port is None else f"{where.host}:{where.port}"
        return told(f"{address}: {self.reason}", where)

    def drained(self, session: ClientSession, reason: Any) -> None:
        """A session takes no more calls: the peer said so, or it is lost."""
        session.draining = True
        if session is not self.session:
            return
        self.session = None
        self.reason = reason
        if self._keepalive is not None:
            self._keepalive.cancel()
            self._keepalive = None
        if not self.closing:
            self.become(_IDLE)
            if self._waiting:
                self.connect()
        self._end_when_empty(session)

    def _end_when_empty(self, session: ClientSession) -> None:
        if session.open_streams:
            session.wants_stream = True
        elif session.usable:
            session.terminate("drained")

    # Keepalive

    def _later(self, pause: float, what: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(pause, what, context=Context())

    def _ping(self) -> None:
        session = self.session
        assert session is not None
        arguments = self.arguments
        if arguments.idle_pings or session.open_streams:
            self._pinged = True
            session.ping(b"pymicro\0")
            self._keepalive = self._later(arguments.ping_timeout, self._unanswered)
        else:
            self._keepalive = self._later(self._interval, self._ping)

    def _unanswered(self) -> None:
        self._keepalive = self._later(_SECOND_LOOK, self._dead)

    def _dead(self) -> None:
        session = self.session
        assert session is not None
        session.abort(f"a keepalive ping was not answered within {self.arguments.ping_timeout:g} s")
        self.drained(session, session.reason)

    def ping_less(self) -> None:
        """The peer has ended a connection because of too many pings (gRFC A8): half as many from now on."""
        self._interval *= 2

    def pong(self) -> None:
        """A ping was answered."""
        if self._pinged and self._keepalive is not None:
            self._pinged = False
            self._keepalive.cancel()
            self._keepalive = self._later(self._interval, self._ping)

    # Calls

    def free_session(self) -> ClientSession | None:
        """See `CallStarter`."""
        session = self.session
        if session is not None and session.full:
            session.wants_stream = True
            return None
        return session

    def more_streams(self, session: ClientSession) -> None:
        """A session may have room for calls that wait; or it drains, and may be empty now."""
        if session is not self.session:
            if session.draining:
                self._end_when_empty(session)
            return
        self.start_waiting()
        self.tell()

    async def drain(self) -> None:
        """Close it when its calls have ended; they go on until then."""
        self.closing = True
        if self.session is not None:
            self.drained(self.session, "the address has left")
        try:
            # One that the peer has told to drain may still have calls.
            for session in [one for one in self.sessions if one.draining]:
                await asyncio.shield(session.gone)
        finally:
            await self.close()

    async def close(self) -> None:
        """See `NodeConnection`."""
        self.closing = True
        for handle in (self._again, self._keepalive):
            if handle is not None:
                handle.cancel()
        self._again = self._keepalive = None
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.wait({self._dialling})
        self.session = None
        self.become(_SHUTDOWN)
        self.end_waiting()
        sessions = set(self.sessions)
        for session in sessions:
            session.terminate("closed here")
        if sessions:
            gone = {session.gone for session in sessions}
            _, late = await asyncio.wait(gone, timeout=_GOODBYE)
            if late:  # the socket takes nothing more
                for session in sessions:
                    session.abort("closed here")
                await asyncio.wait(late)


def told(error: str, arguments: Arguments) -> str:
    """What calls are told of the last attempt to connect; grpc-core's words come first."""
    return f"failed to connect to all addresses; last error: {with_sentence(error, arguments.secured)}"


def _words(error: Exception) -> str:
    """What went wrong, without the address, which asyncio repeats."""
    if isinstance(error, ssl.SSLError):
        return str(error)
    if isinstance(error, OSError) and error.errno:
        text = error.strerror or str(error)
        return os.strerror(error.errno) if error.errno > 0 and "Connect call failed" in str(error) else text
    return str(error) or type(error).__name__
