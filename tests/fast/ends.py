"""Two ends of one connection over a real socket: an echo server and a client, right on the engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from pymicro_fast import Buffers, Session, Stream

FIXED = [(b"content-type", b"application/grpc")]
OK = (b"grpc-status", b"0")


class End(Stream):
    """A stream that can be awaited."""

    waiter: asyncio.Future[None] | None = None

    def changed(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def inflate(self, data: bytes) -> bytes:
        return b"inflated " + data

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.waiter = asyncio.get_running_loop().create_future()
                await self.waiter

    async def read(self) -> bytes | None:
        """The next message; None at the end."""
        await self.until(lambda: self.available or self.ended or self.closed)
        return self.take()

    async def write(self, message: bytes) -> None:
        self.send(message)
        self.wants_room = True
        await self.until(self.room)
        self.wants_room = False


class Served(End):
    """Echoes each message, once `go` is set."""

    task: asyncio.Task[None] | None = None

    def changed(self) -> None:
        super().changed()
        if self.task is None and self.initial is not None:
            self.task = asyncio.get_running_loop().create_task(self.serve())
            tasks = self.session.tasks  # type: ignore[attr-defined]
            tasks.add(self.task)
            self.task.add_done_callback(tasks.discard)

    async def serve(self) -> None:
        while (message := await self.read()) is not None:
            await self.write(message)
        self.finish([OK])


class Connection(Session, asyncio.BufferedProtocol):
    """One end; notes what it is told."""

    def __init__(self, loop: asyncio.AbstractEventLoop, buffers: Buffers, **options: Any) -> None:
        super().__init__(loop, buffers, fixed=FIXED, **options)
        self.told: list[Any] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.answered = asyncio.Event()
        self.gone: asyncio.Future[Any] = loop.create_future()

    def settings_received(self) -> None:
        self.told.append("settings")

    def pong_received(self, payload: bytes) -> None:
        self.told.append(payload)
        self.answered.set()

    def goaway_received(self, last_stream_id: int, error: int, text: bytes) -> None:
        self.told.append((last_stream_id, error, text))

    def mishap(self, error: Exception) -> None:
        self.told.append(error)

    def lost(self, reason: Any) -> None:
        self.gone.set_result(reason)


class Ends:
    """A listening server, and what connects to it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.buffers = Buffers()
        self.served: list[Connection] = []
        self.port = 0

    def serve(self, accept: type[Stream], options: dict[str, Any]) -> Connection:
        connection = Connection(self.loop, self.buffers, accept=accept, **options)
        self.served.append(connection)
        return connection

    async def connect(self, **options: Any) -> Connection:
        _, client = await self.loop.create_connection(
            lambda: Connection(self.loop, self.buffers, authority=b"here", **options), "127.0.0.1", self.port
        )
        return client


@asynccontextmanager
async def ends(accept: type[Stream] = Served, **options: Any) -> AsyncIterator[Ends]:
    """A server; it and all its connections are gone afterwards."""
    made = Ends()
    server = await made.loop.create_server(lambda: made.serve(accept, options), "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for connection in made.served:
            connection.abort("the test is over")
            for task in list(connection.tasks):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await connection.gone


@asynccontextmanager
async def pair(
    accept: type[Stream] = Served, client: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Connection, Connection]]:
    """A client's end and its server's."""
    async with ends(accept, **options) as made:
        near = await made.connect(**(client or {}))
        near.ping(b"anybody?")
        async with asyncio.timeout(10):
            await near.answered.wait()
        try:
            yield near, made.served[0]
        finally:
            near.abort("the test is over")
            await near.gone


def started(connection: Session, path: bytes = b"/echo", pairs: Any = None, timeout: float = -1.0) -> End:
    stream = End()
    connection.request(stream, path, timeout, pairs)
    return stream


async def echoed(connection: Session, message: bytes) -> bytes | None:
    """What one call gives back."""
    stream = started(connection)
    stream.send(message)
    stream.end()
    await stream.until(lambda: stream.ended or stream.closed)
    assert stream.grpc_status == 0, stream.error
    return stream.take()
