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
from pymicro.serving.fast.sockets import bound, unlink
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
# Seconds until accepting is tried again when the system has no room for a connection.
_PAUSE = 1.0
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
        self._accepting: set[asyncio.Task[None]] = set()
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
            task = self.loop.create_task(self._connect(found))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    def _accept_again(self, listening: socket.socket) -> None:
        if not self._stopping:
            self.loop.add_reader(listening, self._accept, listening)

    async def _connect(self, found: socket.socket) -> None:
        try:
            found.setblocking(False)
            if found.family != socket.AF_UNIX:
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self.loop.connect_accepted_socket(lambda: ServedConnection(self), found)
        except OSError as exc:
            found.close()
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
            self._stop_listening()
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

    async def _none_left(self, end: Callable[[], float]) -> None:
        """Return when no connection is left, or a moment has passed; another `stop` may move it."""
        while self._connections and (left := end() - time.monotonic()) > 0:
            self._changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return
