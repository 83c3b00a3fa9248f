"""A hop before a node that a test can turn into a black hole, and that counts the calls sent to it."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

__all__ = ["Frames", "Hole"]

# RFC 9113: a client begins with 24 bytes (3.4); a frame has nine, the first three its length and
# the fourth its type (4.1); each request begins with a frame HEADERS, type 1 (6.2).
PREFACE = 24
FRAME = 9
HEADERS = 1


class Frames:
    """Counts the requests in what a client sends."""

    def __init__(self) -> None:
        self._skip = PREFACE
        self._head = b""

    def feed(self, data: bytes) -> int:
        """How many requests begin in `data`."""
        found = 0
        while data:
            if self._skip:
                data, self._skip = data[self._skip :], max(0, self._skip - len(data))
                continue
            missing = FRAME - len(self._head)
            self._head, data = self._head + data[:missing], data[missing:]
            if len(self._head) == FRAME:
                self._skip = int.from_bytes(self._head[:3])
                found += self._head[3] == HEADERS
                self._head = b""
        return found


class Hole:
    """Passes TCP connections on to `address`, until it swallows everything and keeps them open.

    Args:
        address: Of a node.
        delay: Seconds that a new connection takes to get through.

    Attributes:
        address: Where to connect to.
        calls: When (loop time) calls were sent here, passed on or not.
        connections: How many there have been.
    """

    def __init__(self, address: str, delay: float = 0.0) -> None:
        self._delay = delay
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._swallowing = False
        self._passing: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.address = ""
        self.calls: list[float] = []
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._passing):
            task.cancel()
        if self._passing:
            await asyncio.wait(self._passing)
        await self._server.wait_closed()

    def swallow(self) -> None:
        """From now on nothing gets through, and nobody is told."""
        self._swallowing = True

    def mend(self) -> None:
        """Let new bytes through; what was swallowed is lost, so connections are, too."""
        self._swallowing = False
        for task in self._passing:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        writers = [writer]
        self.connections += 1
        try:
            await asyncio.sleep(self._delay)
            there, back = await asyncio.open_connection(self._host, self._port)
            writers.append(back)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, back, Frames()))
                group.create_task(self._pass(there, writer, None))
        except (OSError, asyncio.CancelledError):
            pass  # the node is gone, or the test is over
        finally:
            for one in writers:
                one.transport.abort()
            self._passing.discard(task)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: Frames | None
    ) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if frames is not None:
                    self.calls += [loop.time()] * frames.feed(data)
                if not self._swallowing:
                    writer.write(data)
                    await writer.drain()
        if not self._swallowing:
            with contextlib.suppress(OSError):
                writer.write_eof()
