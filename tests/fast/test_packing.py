"""Compressed messages: what is long is packed and unpacked in threads, in order, and holds no event loop."""

from __future__ import annotations

import asyncio
import gzip
import random
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from pymicro import Client, ResourceExhausted, handler
from pymicro.serving.server import Server
from pymicro.settings.config import Config
from pymicro_fast.packing import packed, unpacked
from pymicro_fast.wire import TooLarge, decompress
from tests.hostile.steps import Steps, held_briefly, steps
from tests.protos import zoo_pb2 as pb
from tests.serving.serving import ZOO

DICE = random.Random(7)
# A second of zlib's time, nearly.
LONG = DICE.randbytes(1 << 20) + bytes(7 << 20)
TEXT = " ".join(DICE.choice(("red", "green", "blue", "ant", "bee", "cat")) for _ in range(600_000)).encode()
SIZES = [10, 200_000, 3, 40_000, 1_000_000, 1, 70_000, 0]
WAYS = [grpc.Compression.Gzip, grpc.Compression.Deflate]


class Keeper:
    @handler
    async def import_(self, animal: pb.Animal) -> pb.Animal:
        return animal

    @handler
    async def watch(self, query: pb.Query) -> AsyncIterator[pb.Animal]:
        for size in SIZES:
            yield pb.Animal(name=text_of(size))

    @handler
    async def count(self, animals: AsyncIterator[pb.Animal]) -> pb.Tally:
        number = 0
        async for animal in animals:
            assert animal.name == text_of(SIZES[number % len(SIZES)])
            number += 1
        return pb.Tally(count=number)

    @handler
    async def talk(self, animals: AsyncIterator[pb.Animal]) -> AsyncIterator[pb.Animal]:
        async for animal in animals:
            yield animal


def text_of(size: int) -> str:
    return (TEXT[:size].decode() + "ü") if size else ""


@asynccontextmanager
async def ends(
    of_client: grpc.Compression, of_server: grpc.Compression, limit: int = 64 << 20, foreign: bool = False
) -> AsyncIterator[Any]:
    """A channel to Keeper over fast; or grpc.aio's."""
    config = Config().replace("code", transport="fast", max_message_size=limit)
    server = Server(config, compression=of_server)
    server.add(Keeper(), pb, partial=True)
    _, port = await server.bind("127.0.0.1:0")
    await server.start()
    server.set_serving(True)
    try:
        if foreign:
            options = [("grpc.max_receive_message_length", limit)]
            async with grpc.aio.insecure_channel(
                f"127.0.0.1:{port}", options=options, compression=of_client
            ) as channel:
                yield channel
        else:
            async with Client(
                registry="static",
                registry_address=f"zoo=127.0.0.1:{port}",
                transport="fast",
                client_retries=0,
                max_message_size=limit,
            ) as client:
                yield client.channel("zoo", compression=of_client)
    finally:
        await server.stop(None)


def rpc(channel: Any, kind: str, name: str, request: Any, response: Any) -> Any:
    return getattr(channel, kind)(
        f"{ZOO}/{name}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )


async def animals() -> AsyncIterator[pb.Animal]:
    for size in SIZES:
        yield pb.Animal(name=text_of(size))


@pytest.mark.parametrize("foreign", [False, True], ids=["fast", "grpc"])
@pytest.mark.parametrize("way", WAYS)
async def test_long_and_short_messages_keep_their_order(way: grpc.Compression, foreign: bool) -> None:
    async with ends(way, way, foreign=foreign) as channel:
        one = rpc(channel, "unary_unary", "Import", pb.Animal, pb.Animal)
        for size in SIZES:
            assert (await one(pb.Animal(name=text_of(size)))).name == text_of(size)
        watch = rpc(channel, "unary_stream", "Watch", pb.Query, pb.Animal)
        assert [len(animal.name) for animal in [one async for one in watch(pb.Query())]] == [
            len(text_of(size)) for size in SIZES
        ]
        count = rpc(channel, "stream_unary", "Count", pb.Animal, pb.Tally)
        assert (await count(animals())).count == len(SIZES)
        talk = rpc(channel, "stream_stream", "Talk", pb.Animal, pb.Animal)
        assert [animal.name async for animal in talk(animals())] == [text_of(size) for size in SIZES]


async def test_no_step_of_the_loop_is_long_however_long_the_message() -> None:
    text = "x" * 40 + TEXT.decode() * 2

    async with ends(grpc.Compression.Gzip, grpc.Compression.Gzip) as channel:
        # In bytes: serializing and parsing are not what is measured.
        one = channel.unary_unary(f"{ZOO}/Import")
        talk = channel.stream_stream(f"{ZOO}/Talk")
        message = pb.Animal(name=text).SerializeToString()
        assert len(message) > 4 << 20

        async def attack() -> Steps:
            with steps() as found:
                await asyncio.sleep(0)
                assert len(gzip.compress(b"warm")) > 0
                assert len(await one(message)) == len(message)
                call = talk()
                for _ in range(2):
                    await call.write(message)
                    assert len(await call.read()) == len(message)
                await call.done_writing()
                assert await call.read() is grpc.aio.EOF
            return found

        await held_briefly(attack)


async def test_a_bomb_is_unpacked_no_further_than_its_limit_and_holds_no_loop() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    assert len(bomb) < 128 << 10
    # Small enough to be begun in the loop.
    small = gzip.compress(bytes(16 << 20))
    assert len(small) < 32 << 10
    loop = asyncio.get_running_loop()

    async def attack() -> Steps:
        with steps() as found:
            for limit in (4 << 20, 32 << 20):
                with pytest.raises(TooLarge):
                    await unpacked(loop, b"gzip", bomb, limit)  # type: ignore[misc]
            with pytest.raises(TooLarge):
                await unpacked(loop, b"gzip", small, 4 << 20)  # type: ignore[misc]
        return found

    await held_briefly(attack)


@pytest.mark.parametrize("limit", [10_000, 300_000, 4 << 20])
async def test_who_sends_a_bomb_is_told_its_limit(limit: int) -> None:
    async with ends(grpc.Compression.Gzip, grpc.Compression.NoCompression, limit) as channel:
        one = rpc(channel, "unary_unary", "Import", pb.Animal, pb.Animal)
        with pytest.raises(ResourceExhausted, match=f"vs. {limit}"):
            await one(pb.Animal(name="x" * (limit + 10)))
        count = rpc(channel, "stream_unary", "Count", pb.Animal, pb.Tally)
        with pytest.raises(ResourceExhausted, match=f"vs. {limit}"):
            await count(iter([pb.Animal(name="x" * (limit + 10))]))


@pytest.mark.parametrize("size", [0, 1, 32_768, 32_769, 262_143, 262_144, 262_145, 1_000_000])
@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
async def test_all_that_was_packed_is_unpacked(encoding: bytes, size: int) -> None:
    loop = asyncio.get_running_loop()

    async def now(made: Any) -> bytes:
        return made if isinstance(made, bytes) else await made

    for data in (bytes(size), LONG[:size]):
        small = await now(packed(loop, encoding, data))
        assert await now(unpacked(loop, encoding, small, size)) == data == decompress(encoding, small, size)
        if size:
            for broken in (small[:-1], small[: len(small) // 2]):
                with pytest.raises(ValueError, match=r"breaks off|decompressed"):
                    await now(unpacked(loop, encoding, broken, size))
            with pytest.raises(TooLarge):
                await now(unpacked(loop, encoding, small, size - 1))
    with pytest.raises(ValueError, match="decompressed"):
        await now(unpacked(loop, encoding, DICE.randbytes(50_000), size))
    with pytest.raises(LookupError):
        unpacked(loop, b"brotli", zlib.compress(b""), size)


async def test_a_call_that_is_cancelled_while_it_is_packed_leaves_nothing_behind() -> None:
    async with ends(grpc.Compression.Gzip, grpc.Compression.Gzip) as channel:
        one = channel.unary_unary(f"{ZOO}/Import")
        message = pb.Animal(name="x" + TEXT.decode()).SerializeToString()
        await one(b"")
        for number in range(12):
            call = one(message)
            for _ in range(number):
                await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert len(await one(message)) == len(message)
        talk = channel.stream_stream(f"{ZOO}/Talk")
        call = talk()
        writing = asyncio.create_task(call.write(message))
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert call.cancelled()
