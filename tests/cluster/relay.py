"""A hop between a client and the API server that a test can cut."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class Relay:
    """Passes TCP connections on to `host:port`, until it is cut. TLS goes through it as it is.

    Attributes:
        accepted: All connections there have been.
        most: The most connections there were at a time.
        passed: Bytes that went through, both ways together.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._passing: set[asyncio.Task[None]] = set()
        self.port = 0
        self.accepted = self.most = self.passed = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.cut()

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._passing)

    async def mend(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Break all connections, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.drop()

    async def drop(self) -> None:
        """Break all connections, and go on taking new ones."""
        for task in self._passing:
            task.cancel()
        if self._passing:
            await asyncio.wait(self._passing)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:
            # Accepted before the cut, served after it.
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        self.accepted += 1
        self.most = max(self.most, len(self._passing))
        writers = [writer]
        try:
            with contextlib.suppress(OSError):
                there, back = await asyncio.open_connection(*self._target)
                writers.append(back)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pass(reader, back))
                    group.create_task(self._pass(there, writer))
        finally:
            for one in writers:
                one.transport.abort()
            self._passing.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                self.passed += len(data)
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except OSError:
            # One end was reset: the other one hears of it now, and not when it next says something.
            writer.transport.abort()
