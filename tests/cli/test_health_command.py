from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from pymicro.calling.peers.health import NodeHealth, follow_health
from pymicro.discovery.registries.local import LocalRegistry
from pymicro.nodes.node import Node
from pymicro.rpc.status import RpcError
from pymicro.settings.config import load
from tests.cli_support import PATIENCE, Commands, Result, next_line

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class CheckOnly(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Health as many servers have it: `Watch` is UNIMPLEMENTED."""

    status = SERVING

    async def Check(self, request: Any, context: Any) -> Any:
        return health_pb2.HealthCheckResponse(status=self.status)


@asynccontextmanager
async def serving(*servicers: Any) -> AsyncIterator[list[str]]:
    """A server for each servicer, or without health for None; their addresses."""
    servers, addresses = [], []
    for servicer in servicers:
        server = grpc.aio.server()
        if servicer is not None:
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        servers.append(server)
    try:
        yield addresses
    finally:
        for server in servers:
            await server.stop(0)


def static(*addresses: str) -> dict[str, str]:
    listed = ",".join(f"shop={address}" for address in addresses)
    return {"MICRO_REGISTRY": "static", "MICRO_REGISTRY_ADDRESS": listed}


async def test_every_node_is_asked_and_exit_0_means_all_serve(pymicro: Commands) -> None:
    servicer = health.aio.HealthServicer()
    await servicer.set("shop.v1.Shop", NOT_SERVING)
    async with serving(servicer, CheckOnly()) as addresses:
        result = await pymicro("health", "shop", **static(*addresses))
        assert (result.code, result.err) == (0, "")
        head, *rows = result.out.splitlines()
        assert head.split() == ["ADDRESS", "TIME", "HEALTH"]
        for row, address in zip(rows, sorted(addresses), strict=True):
            assert re.fullmatch(rf"{address}  \d+\.\d ms +SERVING", row)
        # Of one service the first node says no, and one is enough.
        mixed = await pymicro("health", "shop", "-n", "shop.v1.Shop", **static(*addresses))
        assert mixed.code == 1
        assert {row.split()[0]: row.split()[-1] for row in mixed.out.splitlines()[1:]} == {
            addresses[0]: "NOT_SERVING",
            addresses[1]: "SERVING",
        }
        unknown = await pymicro("health", "shop", "--name", "nobody", "--address", addresses[0])
        assert (unknown.code, unknown.out.splitlines()[1].split()) == (
            1,
            [addresses[0], "-", "SERVICE_UNKNOWN"],
        )


async def test_a_node_that_gives_no_health_is_shown_with_why(pymicro: Commands) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections, and nobody answers

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    web = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with serving(None) as (bare,), web:
        addresses = {
            "127.0.0.1:1": "unreachable: Connection refused",
            bare: "answers, and offers no health (grpc.health.v1)",
            f"127.0.0.1:{silent.getsockname()[1]}": "unreachable: takes connections and does not answer",
            f"127.0.0.1:{web.sockets[0].getsockname()[1]}": (
                "unreachable: something else listens there (HTTP/1)"
            ),
        }
        result = await pymicro("health", "shop", "-o", "json", **static(*addresses))
    silent.close()
    assert (result.code, result.err) == (1, "")
    found = json.loads(result.out)
    assert {node["address"]: node["error"] for node in found} == addresses
    assert found[0] == {
        "id": "127.0.0.1:1",
        "address": "127.0.0.1:1",
        "version": "",
        "status": None,
        "milliseconds": None,
        "error": "unreachable: Connection refused",
    }


async def test_a_node_that_hangs_is_given_up_after_the_timeout(pymicro: Commands) -> None:
    class Hanging(CheckOnly):
        async def Check(self, request: Any, context: Any) -> Any:
            await asyncio.Event().wait()

    async with serving(Hanging()) as (address,):
        result = await pymicro("health", "shop", "--address", address, "--timeout", "100ms")
    assert (result.code, result.out.splitlines()[1]) == (1, f"{address}  -     no answer in 100ms")


async def test_a_service_without_nodes_is_exit_code_1(pymicro: Commands, registry_folder: str) -> None:
    nobody = f"no node of shop: registry local ({registry_folder}) lists 0 nodes\n"
    result = await pymicro("health", "shop", "-o", "json")
    waited, said = result.err.splitlines(keepends=True)
    assert (result.code, result.out, said) == (1, "[]\n", nobody)
    assert waited.startswith(
        f"waiting 2s for a node of shop: registry local ({registry_folder}) listed 0 nodes "
    )
    at_once = await pymicro("health", "shop", "--client-first-wait=0")
    assert at_once == Result(1, "", nobody)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--timeout", "soon"), "--timeout: 'soon' is no duration"),
        (("--timeout", "0"), "--timeout: in 0 no node can answer"),
        (("--address", "x"), "--address: 'x' has no port"),
    ],
)
async def test_bad_input_is_one_message(pymicro: Commands, argv: tuple[str, ...], words: str) -> None:
    result = await pymicro("health", "shop", *argv)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"pymicro health: {words}")


@pytest.mark.parametrize("watched", [True, False])
async def test_a_change_is_told_by_watch_or_else_found_by_asking_again(watched: bool) -> None:
    servicer: Any = health.aio.HealthServicer() if watched else CheckOnly()
    told: asyncio.Queue[NodeHealth | RpcError] = asyncio.Queue()

    async def until(status: str) -> None:
        while True:
            found = await asyncio.wait_for(told.get(), PATIENCE)
            assert isinstance(found, NodeHealth)
            assert found.seconds >= 0
            if found.status == status:
                return

    async with serving(servicer) as (address,):
        # What is watched is not asked a second time in this test.
        following = asyncio.create_task(
            follow_health(
                Node("a", address), load({}, environ={}), told.put_nowait, interval=3600 if watched else 0.01
            )
        )
        await until("SERVING")
        if watched:
            await servicer.set("", NOT_SERVING)
        else:
            servicer.status = NOT_SERVING
        await until("NOT_SERVING")
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following


@pytest.mark.once  # two seconds pass before it asks again
async def test_watched_health_is_a_line_for_each_change(pymicro: Commands, registry_folder: str) -> None:
    servicer, polled = health.aio.HealthServicer(), CheckOnly()
    registry = LocalRegistry(load({"registry_address": registry_folder}, environ={}))
    async with serving(servicer, polled) as (first, second), registry:
        await registry.register(Node("a", first, "shop"))
        async with pymicro.started("health", "shop", "-w") as process:

            async def change() -> str:
                return (await next_line(process.stdout))[10:]

            assert await change() == f"+  {first}  SERVING"
            await servicer.set("", NOT_SERVING)  # told by Watch
            assert await change() == f"~  {first}  NOT_SERVING"
            await registry.register(Node("b", second, "shop"))
            assert await change() == f"+  {second}  SERVING"
            polled.status = NOT_SERVING  # found by asking again
            assert await change() == f"~  {second}  NOT_SERVING"
            await registry.deregister(Node("a", first, "shop"))
            assert await change() == f"-  {first}  NOT_SERVING"
            await registry.deregister(Node("b", second, "shop"))
            assert await change() == f"-  {second}  NOT_SERVING"
            assert (await next_line(process.stderr)).startswith("no node of shop: ")
            process.send_signal(signal.SIGINT)
            out, err = await process.communicate()
            assert (process.returncode, out, err) == (130, b"", b"")


async def test_watched_health_is_a_document_for_each_change(pymicro: Commands) -> None:
    servicer = health.aio.HealthServicer()
    async with (
        serving(servicer) as (address,),
        pymicro.started("health", "shop", "-w", "-o", "json", "--address", address) as process,
    ):

        async def statuses() -> list[str]:
            return [node["status"] for node in json.loads(await next_line(process.stdout))]

        assert await statuses() == ["SERVING"]
        await servicer.set("", NOT_SERVING)
        assert await statuses() == ["NOT_SERVING"]
