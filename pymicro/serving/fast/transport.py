"""The transport `fast` of the serving end: it listens, and stops."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from pymicro.base.errors import ConfigError
from pymicro.serving.fast.arguments import ServerArguments
from pymicro.serving.fast.connection import ServedConnection
from pymicro.serving.fast.sockets import BACKLOG, bound, unlink
from pymicro.serving.transport import ServedMethods
from pymicro.settings.config import Config
from pymicro_fast import INTERFACE

__all__ = ["FastServerTransport"]

log = logging.getLogger("pymicro.server")

# The interface of the engine that this was written for.
_WRITTEN_FOR = 1

# Connections that are accepted in one turn of the event loop, so that calls get theirs.
_AT_ONCE = 64
# Of the files that a process may open, so many are not for connections: the rest of the process
# needs them, and an accept without one would fail for everybody, again and again.
_SPARE_FILES = 64
# Seconds between two log lines about connections that are not taken.
_LOG_EVERY = 10.0
# Seconds for the last bytes of connections that are closed.
_GOODBYE = 1.0


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
        ConfigError: An option is unknown here; or the installed pymicro-fast is of another pymicro.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        config: Config,
        options: Sequence[tuple[str, Any]] = (),
        compression: grpc.Compression | None = None,
    ) -> None:
        if INTERFACE != _WRITTEN_FOR:
            raise ConfigError(
                f"the installed pymicro-fast has interface {INTERFACE}, and this pymicro was written for "
                f"{_WRITTEN_FOR}: install both of one release, pip install --upgrade 'pymicro-grpc[fast]'"
            )
        self.arguments = ServerArguments.of(config, options)
        self.compression = compression
        self.methods: ServedMethods | None = None
        self.cancelled: set[asyncio.Task[Any]] = set()
        self._sockets: list[tuple[socket.socket, str]] = []
        self._servers: list[asyncio.AbstractServer] = []
        self._connections: set[ServedConnection] = set()
        self._most = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_FILES, _SPARE_FILES)
        self._told = -_LOG_EVERY
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

    async def listen(self, address: str, methods: ServedMethods) -> tuple[str, int]:
        """See `ServerTransport`; `unix:path` is an address too, and returned as the host."""
        self.loop = asyncio.get_running_loop()
        self.methods = methods
        sockets, where = await bound(address, reuse_port=self.arguments.reuse_port)
        self._sockets += [(one, address) for one in sockets]
        return where

    async def start(self, broken: Callable[[BaseException], None]) -> None:
        """See `ServerTransport`. Its accepting cannot break: what fails there fails for one connection."""
        for one, _ in self._sockets:
            make = self.loop.create_unix_server if one.family == socket.AF_UNIX else self.loop.create_server
            self._servers.append(await make(self._connection, sock=one, backlog=_AT_ONCE))
            one.listen(BACKLOG)  # asyncio has one number for both

    def _connection(self) -> ServedConnection:
        return ServedConnection(self)

    # Connections

    def take(self, connection: ServedConnection) -> bool:
        """Whether a new connection is served."""
        if self._stopping:
            return False
        if len(self._connections) >= self._most:
            now = time.monotonic()
            if now - self._told >= _LOG_EVERY:
                self._told = now
                log.warning("more connections are refused: %d are open", len(self._connections))
            return False
        self._connections.add(connection)
        return True

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
            self._stop_listening()
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
        for server in self._servers:
            server.close()
        for one, address in self._sockets:
            if not self._servers:
                one.close()  # nobody has started
            unlink(address)
        self._sockets.clear()

    async def _none_left(self, end: Callable[[], float]) -> None:
        """Return when no connection is left, or a moment has passed; another `stop` may move it."""
        while self._connections and (left := end() - time.monotonic()) > 0:
            self._changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return
