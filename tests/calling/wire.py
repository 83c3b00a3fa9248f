"""A TCP proxy between a client and a server: it reads along, and it can fall silent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

# Of a server that takes pings, and more often than a client sends them.
PERMITTING = (
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 100),
)

_PREFACE = 24  # bytes (RFC 9113, 3.4)
_HEADER = 9  # (4.1)
_PING = 6  # (6.7)
_ACK = 1


class Wire:
    """What goes through it arrives, until it is mute: then all is taken, and nothing arrives.

    Attributes:
        address: Of the proxy.
        pings: Those the client has sent.
        connections: Those the client has made.
    """

    def __init__(self, to: str) -> None:
        self._to = to
        self._mute = False
        self._over = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self.address = ""
        self.pings = 0
        self.connections = 0

    def mute(self) -> None:
        """Swallow everything from now on; the kernel on this side acknowledges it all the same."""
        self._mute = True

    def speak(self) -> None:
        """Let connections that are made from now on through."""
        self._mute = False

    async def until(self, condition: Callable[[], bool], timeout: float = 30) -> None:
        """Wait until it holds; it is looked at with each ping and connection."""
        async with self._changed, asyncio.timeout(timeout):
            await self._changed.wait_for(condition)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._over:
            writer.transport.abort()  # the kernel had accepted it before the end
            return
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # It may be cancelled before it begins; and whoever reads no more is not waited for.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self._tell()
        host, _, port = self._to.rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._from_client(reader, back))
                group.create_task(self._from_server(there, writer))
        finally:
            back.transport.abort()

    async def _from_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            self._pass_on(writer, await reader.readexactly(_PREFACE))
            while True:
                header = await reader.readexactly(_HEADER)
                payload = await reader.readexactly(int.from_bytes(header[:3]))
                if header[3] == _PING and not header[4] & _ACK:
                    self.pings += 1
                    await self._tell()
                self._pass_on(writer, header + payload)
        writer.close()

    async def _from_server(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                self._pass_on(writer, data)
        if not self._mute:
            writer.close()

    def _pass_on(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if not self._mute:
            writer.write(data)

    async def end(self) -> None:
        """Close what there is, and what comes."""
        self._over = True
        await self.close()
        # A connection that was accepted just before is made in a few turns of the loop, and lost in one.
        for _ in range(10):
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Cut all connections; new ones go through."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def wire(to: str) -> AsyncIterator[Wire]:
    """A proxy to `host:port`, on a port of its own."""
    made = Wire(to)
    server = await asyncio.start_server(made.connected, "127.0.0.1", 0)
    made.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        await made.end()
