"""Floods of frames that move nothing: who sends them is cut off soon, and calls of others go on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from pymicro import Client, Unavailable, handler
from pymicro.serving.server import Server
from pymicro.settings.config import Config
from tests.hostile.steps import elsewhere
from tests.machine import least_cpu
from tests.protos import zoo_pb2 as pb
from tests.serving.serving import ZOO

from .raw import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    Raw,
    block,
    connected,
    frame,
    request,
    setting,
    window,
)

IMPORT, TALK = f"{ZOO}/Import".encode(), f"{ZOO}/Talk".encode()
# What a flooder sends at most, if nobody cuts it off: half a million frames and more.
MOST = 16 << 20
# Seconds of the victim's CPU until it is cut off; at half a microsecond for each of 10,000 frames this is
# mostly Python's.
BAR = 0.25


class Keeper:
    @handler
    async def import_(self, animal: pb.Animal) -> pb.Animal:
        return animal

    @handler
    async def talk(self, animals: AsyncIterator[pb.Animal]) -> AsyncIterator[pb.Animal]:
        async for animal in animals:
            yield animal


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    server = Server(Config().replace("code", transport="fast"))
    server.add(Keeper(), pb, partial=True)
    _, port = await server.bind("127.0.0.1:0")
    await server.start()
    server.set_serving(True)
    try:
        yield port
    finally:
        await server.stop(None)


# What comes first, and what comes again and again. Stream 1 is a call that goes on, stream 3 one that ended.
OPENED = request(1, TALK) + request(3, IMPORT, b"")
FLOODS = {
    "windows of the connection": window(0, 1),
    "windows of a stream": window(1, 1),
    "windows of a stream that has ended": window(3, 1),
    "priorities": frame(PRIORITY, 0, 1, bytes((0, 0, 0, 0, 16))),
    "settings": frame(SETTINGS),
    "settings that change the window": frame(SETTINGS, 0, 0, setting(4, 65535)),
    "pings": frame(PING, 0, 0, bytes(8)),
    "answers to no ping": frame(PING, ACK, 0, bytes(8)),
    "empty data": frame(DATA, 0, 1),
    "empty data of a stream that has ended": frame(DATA, 0, 3),
    "resets of a stream that has ended": frame(RST_STREAM, 0, 3, (8).to_bytes(4)),
    "frames of no known kind": frame(0x42, 0, 1, b"12345678"),
    "some of each": window(1, 1) + frame(DATA, 0, 1) + frame(PING, ACK, 0, bytes(8)) + frame(0x42),
}


async def cheap(attack: Callable[[], Awaitable[float]], bar: float = BAR) -> None:
    """Assert that an attack takes little of the server's CPU."""
    spent = await least_cpu(attack, bar)
    assert spent <= bar, f"{spent:.2f} s of CPU for a flood"


@pytest.mark.parametrize("what", FLOODS)
async def test_a_client_that_floods_is_cut_off_and_others_are_served(what: str) -> None:
    async with (
        elsewhere(served) as (port, there),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call = channel.unary_unary(f"{ZOO}/Import")
        await call(b"")

        async def attack() -> float:
            before = await there(time.thread_time)
            async with connected(port) as raw:
                raw.writer.write(OPENED)
                await raw.until(HEADERS, 3)
                flooding = asyncio.create_task(raw.flood(FLOODS[what], MOST))
                for _ in range(5):
                    await call(b"", timeout=20)
                await flooding
                async with asyncio.timeout(20):
                    await raw.ended.wait()
                # It may have been reset before it could read that; then it was closed all the same.
                assert set(raw.goaways()) <= {ENHANCE_YOUR_CALM}
            return float(await there(time.thread_time) - before)

        await cheap(attack)


@pytest.mark.parametrize("what", FLOODS)
async def test_a_client_that_floods_is_told_why(what: str) -> None:
    """It waits for an answer each time: the server has read all when it closes, and nothing is lost."""
    async with elsewhere(served) as (port, _), connected(port) as raw:
        raw.writer.write(OPENED)
        await raw.until(HEADERS, 3)
        stream = 3
        while not list(raw.goaways()):
            stream += 2
            raw.writer.write(FLOODS[what] * 100 + request(stream, IMPORT, b""))
            await raw.answered(stream)
        async with asyncio.timeout(20):
            await raw.ended.wait()
        assert list(raw.goaways())[-1] == ENHANCE_YOUR_CALM


async def test_a_block_of_headers_in_countless_pieces_is_cut_off() -> None:
    async with elsewhere(served) as (port, there):

        async def attack() -> float:
            before = await there(time.thread_time)
            async with connected(port) as raw:
                raw.writer.write(frame(HEADERS, 0, 1, block(IMPORT)))
                await raw.flood(frame(CONTINUATION, 0, 1), MOST)
                async with asyncio.timeout(20):
                    await raw.ended.wait()
            return float(await there(time.thread_time) - before)

        await cheap(attack, 5 * BAR)


async def test_who_works_may_send_as_many_windows_as_it_likes() -> None:
    """A peer that gives both windows back for each little message is honest, however often it does."""
    async with elsewhere(served) as (port, _), connected(port, setting(4, 4096)) as raw:
        raw.writer.write(request(1, TALK))
        message = bytes((10, 127)) + b"x" * 127
        wire = frame(DATA, 0, 1, b"\0" + len(message).to_bytes(4) + message)
        for number in range(1, 12_001):
            raw.writer.write(wire + window(0, len(wire)) + window(1, len(message) + 5))
            if number % 50 == 0:
                async with asyncio.timeout(20):
                    while raw.received(1) < number * (len(message) + 5):
                        assert not raw.ended.is_set(), list(raw.goaways())
                        await asyncio.sleep(0.001)


class Flooder:
    """A server that answers every request with a flood.

    Attributes:
        port: Where it listens.
        codes: Of the GOAWAYs that its clients sent.
    """

    def __init__(self, piece: bytes) -> None:
        self._piece = piece
        self.codes: list[int] = []
        self.port = 0
        self._serving: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Flooder:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._serving):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await reader.readexactly(len(PREFACE))
        except (asyncio.IncompleteReadError, ConnectionError):  # a client that was closed at once
            writer.close()
            self._serving.discard(task)
            return
        raw = Raw(reader, writer)
        writer.write(frame(SETTINGS))
        try:
            await raw.until(HEADERS)
            await raw.flood(self._piece, MOST)
            async with asyncio.timeout(20):
                await raw.ended.wait()
        finally:
            self.codes += raw.goaways()
            await raw.close()
            self._serving.discard(task)


INTERIM = frame(HEADERS, END_HEADERS, 1, b"\x08\x03100")
OF_SERVERS = {
    **{name: piece for name, piece in FLOODS.items() if "has ended" not in name and name != "empty data"},
    "interim answers": INTERIM,
}


@pytest.mark.parametrize("what", OF_SERVERS)
async def test_a_server_that_floods_is_cut_off_and_other_calls_go_on(what: str) -> None:
    async with elsewhere(lambda: Flooder(OF_SERVERS[what])) as (flooder, _), elsewhere(served) as (port, _):

        async def attack() -> float:
            settings = {"transport": "fast", "client_retries": 0}
            async with (
                Client(
                    registry="static",
                    registry_address=f"bad=127.0.0.1:{flooder.port},good=127.0.0.1:{port}",
                    **settings,
                ) as client,
            ):
                good = client.channel("good").unary_unary(f"{ZOO}/Import")
                bad = client.channel("bad").unary_unary(f"{ZOO}/Import")
                await good(b"")
                before = time.thread_time()
                flooded = asyncio.ensure_future(_end_of(bad(b"", timeout=60)))
                for _ in range(5):
                    await good(b"", timeout=20)
                error = await flooded
                assert isinstance(error, Unavailable), error
                return time.thread_time() - before

        await cheap(attack)


async def _end_of(call: Any) -> Exception | None:
    try:
        await call
    except grpc.aio.AioRpcError as exc:
        return exc
    return None
