"""The transport `fast` of the serving end: it listens, and stops."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from pymicro.base.log_quota import LogQuota
from pymicro.base.loggers import logger
from pymicro.identity.contexts import server_context
from pymicro.identity.handshakes import why_not_taken
from pymicro.nodes.address import join_address
from pymicro.rpc.fast.tls import SHUTDOWN
from pymicro.serving.fast.arguments import ServerArguments
from pymicro.serving.fast.connection import ServedConnection
from pymicro.serving.fast.sockets import bound, unlink
from pymicro.serving.transport import ServedMethods
from pymicro.settings.config import Config

if TYPE_CHECKING:
    from pymicro.identity.identity import Identity
    from pymicro.identity.keeper import IdentityKeeper

__all__ = ["FastServerTransport"]

log = logger("pymicro.server")

# Connections that are accepted in one turn of the event loop, so that calls get theirs.
_AT_ONCE = 64
# Of the files that a process may open, so many are not for connections: the rest of the process
# needs them, and an accept without one would fail for everybody, again and again.
_SPARE_FILES = 64
# Seconds until accepting is tried again when the system has no room for a connection.
_PAUSE = 1.0
# Seconds between two log lines about connections that are not taken.
_LOG_EVERY = 10.0
# Seconds for the last bytes of connections that are closed.
_GOODBYE = 1.0


class _ShownCertificate:
    """What encrypts new connections, with the newest certificate, until it is closed.

    Attributes:
        context: For the next handshake; connections that stand go on with the one that they began with.
    """

    def __init__(self, keeper: IdentityKeeper, clients: str) -> None:
        self._keeper = keeper
        self._clients = clients
        self.context = server_context(keeper.current, clients)
        keeper.listen(self._show)

    def _show(self, identity: Identity) -> None:
        self.context = server_context(identity, self._clients)

    def count(self, result: str) -> None:
        """A handshake has ended so."""
        self._keeper.served[result] += 1

    def close(self) -> None:
        """Take no new certificates any more."""
        self._keeper.unlisten(self._show)


def _peer_of(found: socket.socket) -> str:
    """Who has connected, for people: the socket of one who is gone does not know it any more."""
    try:
        where = found.getpeername()
    except OSError:
        return "an address that is gone"
    return join_address(where[0], where[1]) if isinstance(where, tuple) else "a socket of this machine"


class FastServerTransport:
    """Serves connections that live in the event loop; see `ServerTransport`.

    Args:
        options: grpc channel arguments; they override the settings.
        compression: Compression of responses.

    Attributes:
        arguments: What the settings and options say.
        methods: What is served.
        loop: The event loop, once it listens.
        cancelled: Tasks that were cancelled because their callers have gone.

    Raises:
        ConfigError: An option is unknown here.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        config: Config,
        options: Sequence[tuple[str, Any]] = (),
        compression: grpc.Compression | None = None,
    ) -> None:
        self.arguments = ServerArguments.of(config, options)
        self._client_certificates = config.tls_client_certificates
        self._shown: list[_ShownCertificate] = []
        self._secured: dict[socket.socket, _ShownCertificate] = {}
        self.compression = compression
        self.methods: ServedMethods | None = None
        self.cancelled: set[asyncio.Task[Any]] = set()
        self._sockets: list[tuple[socket.socket, str]] = []
        self._accepting: set[asyncio.Task[None]] = set()
        self._connections: set[ServedConnection] = set()
        self._most = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_FILES, _SPARE_FILES)
        self._told = -_LOG_EVERY
        self._refused = LogQuota(log, "more callers are not taken")
        self._stopping = False
        self._changed: asyncio.Event = asyncio.Event()
        self._end: float | None = None

    @property
    def ping_interval(self) -> str:
        """See `ServerTransport`."""
        return self.arguments.ping_interval

    def has_cancelled(self, task: asyncio.Task[Any]) -> bool:
        """See `ServerTransport`."""
        return task in self.cancelled

    async def listen(
        self, address: str, methods: ServedMethods, identity: IdentityKeeper | None = None
    ) -> tuple[str, int]:
        """See `ServerTransport`; `unix:path` is an address too, and returned as the host."""
        self.loop = asyncio.get_running_loop()
        self.methods = methods
        sockets, where = await bound(address, reuse_port=self.arguments.reuse_port)
        self._sockets += [(one, address) for one in sockets]
        if identity is not None:
            shown = _ShownCertificate(identity, self._client_certificates)
            self._shown.append(shown)
            self._secured.update(dict.fromkeys(sockets, shown))
        return where

    async def start(self, broken: Callable[[BaseException], None]) -> None:
        """See `ServerTransport`. Its accepting cannot break: what fails there fails for one connection."""
        for one, _ in self._sockets:
            self.loop.add_reader(one, self._accept, one)

    # Connections

    # asyncio's servers accept as many at once as the kernel keeps, and one that is closed while it accepts
    # leaves that connection open.

    def _accept(self, listening: socket.socket) -> None:
        """Connections have come: take some of them, and the others in the next turn of the loop."""
        for _ in range(_AT_ONCE):
            try:
                found, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                # Too many files, no memory. The connection stays where it is, and the loop would tell of
                # it again at once.
                self._say("no connection can be accepted: %s", exc.strerror or exc)
                self.loop.remove_reader(listening)
                self.loop.call_later(_PAUSE, self._accept_again, listening)
                return
            if len(self._connections) + len(self._accepting) >= self._most:
                found.close()
                self._say("more connections are refused: %d are open", len(self._connections))
                continue
            task = self.loop.create_task(self._connect(found, self._secured.get(listening)))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    def _accept_again(self, listening: socket.socket) -> None:
        if not self._stopping:
            self.loop.add_reader(listening, self._accept, listening)

    async def _connect(self, found: socket.socket, shown: _ShownCertificate | None) -> None:
        peer = _peer_of(found) if shown is not None else ""
        try:
            found.setblocking(False)
            if found.family != socket.AF_UNIX:
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if shown is None:
                await self.loop.connect_accepted_socket(lambda: ServedConnection(self), found)
            else:
                await self.loop.connect_accepted_socket(
                    lambda: ServedConnection(self),
                    found,
                    ssl=shown.context,
                    ssl_handshake_timeout=self.arguments.handshake,
                    ssl_shutdown_timeout=SHUTDOWN,
                )
                shown.count("ok")
        except OSError as exc:
            found.close()
            if shown is not None:
                shown.count("failed")
                # A check of the port, which ends its connection at once, is no news.
                if isinstance(exc, ssl.SSLError) and (why := why_not_taken(str(exc))):
                    self._refused.say(logging.WARNING, "a caller at %s was not taken: %s", peer, why)
                    return
            log.debug("a connection has ended before it was served: %s", exc)
        except BaseException:
            found.close()
            raise

    def _say(self, text: str, *arguments: object) -> None:
        """Log what may happen a thousand times a second."""
        now = time.monotonic()
        if now - self._told >= _LOG_EVERY:
            self._told = now
            log.warning(text, *arguments)

    def made(self, connection: ServedConnection) -> None:
        """A connection is there; `lost` follows."""
        self._connections.add(connection)

    def lost(self, connection: ServedConnection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)
        self._changed.set()

    # Its end

    async def stop(self, grace: float | None) -> None:
        """See `ServerTransport`."""
        end = time.monotonic() + (grace or 0.0)
        self._end = end if self._end is None else min(end, self._end)
        self._changed.set()
        if not self._stopping:
            self._stopping = True
            handshakes = bool(self._shown)
            self._stop_listening()
            if handshakes:
                # One may take its time. Each has begun after a turn of the loop, and closes its socket then.
                await asyncio.sleep(0)
                for task in self._accepting:
                    task.cancel()
            if self._accepting:
                await asyncio.wait(self._accepting)
            for connection in list(self._connections):
                connection.drain()
        await self._none_left(lambda: self._end or 0.0)
        for connection in list(self._connections):
            connection.cut("the server stops")
        last = time.monotonic() + _GOODBYE
        await self._none_left(lambda: last)
        for connection in list(self._connections):
            connection.abort("the server stops")
        await asyncio.sleep(0)

    def _stop_listening(self) -> None:
        for one, address in self._sockets:
            self.loop.remove_reader(one)
            one.close()
            unlink(address)
        self._sockets.clear()
        self._secured.clear()
        while self._shown:
            self._shown.pop().close()

    async def _none_left(self, end: Callable[[], float]) -> None:
        """Return when no connection is left, or a moment has passed; another `stop` may move it."""
        while self._connections and (left := end() - time.monotonic()) > 0:
            self._changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return
