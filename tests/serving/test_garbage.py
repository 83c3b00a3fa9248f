"""A served call leaves the garbage collector no more than bare grpc.aio does."""

from __future__ import annotations

import gc
from typing import Any

import grpc
import pytest

from tests.protos import zoo_pb2 as pb
from tests.protos import zoo_pb2_grpc
from tests.serving.serving import KINDS, ZOO, Running, eventually, serving
from tests.serving.test_dispatch import Keeper

CALLS = 20


class Bare(zoo_pb2_grpc.KeeperServicer):  # type: ignore[misc]
    """The same answers by grpc.aio alone."""

    async def Import(self, request: Any, context: Any) -> Any:
        return pb.Animal(name=request.name.upper())

    async def Watch(self, request: Any, context: Any) -> Any:
        for number in range(3):
            yield pb.Animal(name=f"{request.name}{number}")

    async def Count(self, requests: Any, context: Any) -> Any:
        return pb.Tally(count=len([request async for request in requests]))

    async def Talk(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            yield pb.Animal(name=request.name.upper())


async def collected(running: Running, name: str) -> int:
    """Objects that only the garbage collector can free, after some calls; the client's are among them."""
    await running.ask(name)
    gc.collect()
    gc.disable()
    try:
        for _ in range(CALLS):
            await running.ask(name)
        if running.server is not None:
            await eventually(lambda: running.server.in_progress == 0, "all have ended")
        return gc.collect()
    finally:
        gc.enable()


@pytest.mark.parametrize("name", KINDS)
async def test_a_call_leaves_no_more_garbage_than_with_bare_grpc(name: str) -> None:
    server = grpc.aio.server()
    zoo_pb2_grpc.add_KeeperServicer_to_server(Bare(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        bare = await collected(Running(None, channel, port), name)  # type: ignore[arg-type]
    await server.stop(None)
    async with serving(Keeper()) as running:
        ours = await collected(running, name)
    assert ours <= bare + CALLS, f"{ZOO}/{name}: {ours} objects, bare {bare}"
