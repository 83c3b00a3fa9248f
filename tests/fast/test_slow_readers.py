"""Peers that read nothing: what is kept for one connection has a limit, and holds up nobody who reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pymicro import handler
from pymicro.serving.fast.connection import ServedConnection
from pymicro.serving.server import Server
from pymicro.settings.config import Config
from tests.protos import zoo_pb2 as pb
from tests.serving.serving import ZOO, stops_growing

from .raw import SETTINGS, Raw, connected, frame, request, setting, window

WATCH = f"{ZOO}/Watch".encode()
SIZE = 65536
# Of the session: 4 MiB, and one message that may begin to go while there is a little of that left.
MOST = (4 << 20) + 2 * SIZE
READERS = 400


class Keeper:
    """Tells endless stories."""

    def __init__(self) -> None:
        self.told = 0

    @handler
    async def watch(self, query: pb.Query) -> AsyncIterator[pb.Animal]:
        while True:
            self.told += 1
            yield pb.Animal(name="x" * SIZE)


@asynccontextmanager
async def served(keeper: Keeper) -> AsyncIterator[tuple[Server, int]]:
    server = Server(Config().replace("code", transport="fast"))
    server.add(keeper, pb, partial=True)
    _, port = await server.bind("127.0.0.1:0")
    await server.start()
    server.set_serving(True)
    try:
        yield server, port
    finally:
        await server.stop(None)


def only_connection(server: Server) -> ServedConnection:
    (found,) = server._transport._connections  # type: ignore[attr-defined]
    assert isinstance(found, ServedConnection)
    return found


async def has_come(raw: Raw, stream: int, count: int) -> None:
    async with asyncio.timeout(30):
        while raw.received(stream) < count:
            assert not raw.ended.is_set()
            await asyncio.sleep(0.005)


async def test_streams_that_nobody_reads_keep_no_more_than_a_connection_may() -> None:
    keeper = Keeper()
    async with served(keeper) as (server, port), connected(port, setting(4, 0)) as raw:
        raw.writer.write(b"".join(request(2 * number + 1, WATCH, b"") for number in range(READERS)))
        await stops_growing(lambda: keeper.told)
        connection = only_connection(server)
        assert connection.open_streams == READERS
        assert 1 << 20 < connection.queued <= MOST
        # The other handlers have not begun: they would hold a message each.
        assert keeper.told <= MOST // SIZE + 1


async def test_who_reads_is_served_beside_those_that_do_not() -> None:
    keeper = Keeper()
    async with served(keeper) as (server, port), connected(port, setting(4, 0)) as raw:
        raw.writer.write(b"".join(request(2 * number + 1, WATCH, b"") for number in range(READERS)))
        await stops_growing(lambda: keeper.told)
        last = 2 * READERS + 1
        raw.writer.write(request(last, WATCH, b"") + window(last, 100 * SIZE) + window(0, 100 * SIZE))
        await has_come(raw, last, 50 * SIZE)
        assert only_connection(server).queued <= MOST
        # And one of those that waited, who reads now.
        waiting = 2 * READERS - 1
        raw.writer.write(window(waiting, 10 * SIZE) + window(0, 100 * SIZE))
        await has_come(raw, waiting, 5 * SIZE)
        # A new first window for all of them: each gets its turn.
        raw.writer.write(frame(SETTINGS, 0, 0, setting(4, SIZE)) + window(0, READERS * SIZE))
        for number in range(READERS):
            await has_come(raw, 2 * number + 1, SIZE // 2)
        assert only_connection(server).queued <= MOST
