"""`pymicro wait`: exit 0 as soon as enough nodes take calls."""

from __future__ import annotations

import asyncio

from grpc_health.v1 import health

from pymicro.discovery.registries.local import LocalRegistry
from pymicro.nodes.node import Node
from pymicro.settings.config import load
from tests.cli_support import PATIENCE, Commands, next_line

from .test_health_command import NOT_SERVING, SERVING, CheckOnly, serving, static


async def test_it_ends_as_soon_as_there_are_so_many_nodes(pymicro: Commands) -> None:
    async with serving(CheckOnly(), None) as addresses:
        one = await pymicro("wait", "shop", "--address", addresses[0])
        assert (one.code, one.out, one.err) == (0, "shop: 1 node\n", "")
        # A server without health takes calls as well.
        two = await pymicro("wait", "shop", "--nodes", "2", **static(*addresses))
        assert (two.code, two.out, two.err) == (0, "shop: 2 nodes\n", "")


async def test_a_node_that_registers_later_is_waited_for(pymicro: Commands) -> None:
    config = load({"registry_address": pymicro.env["MICRO_REGISTRY_ADDRESS"]}, environ={})
    async with (
        serving(CheckOnly()) as addresses,
        LocalRegistry(config) as registry,
        pymicro.started("wait", "shop", "--log-level=debug", "--timeout=0") as process,
    ):
        # The client follows the service, and has seen that nobody offers it.
        while "shop" not in await next_line(process.stderr):
            pass
        await registry.register(Node("n1", addresses[0], "shop"))
        assert await next_line(process.stdout) == "shop: 1 node"
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0


async def test_a_node_that_becomes_well_is_waited_for(pymicro: Commands) -> None:
    servicer = health.aio.HealthServicer()
    await servicer.set("", NOT_SERVING)
    async with serving(servicer) as addresses:
        late = await pymicro("wait", "shop", "--timeout=500ms", **static(*addresses))
        assert late.code == 1
        assert late.err == f"after 500ms 0 of 1 nodes of shop take calls; {addresses[0]}: NOT_SERVING\n"
        async with pymicro.started("wait", "shop", "--timeout=0", **static(*addresses)) as process:
            await servicer.set("", SERVING)
            assert await next_line(process.stdout) == "shop: 1 node"


async def test_the_end_of_the_time_says_what_there_is(pymicro: Commands) -> None:
    nobody = await pymicro("wait", "shop", "--timeout=200ms")
    assert (nobody.code, nobody.out) == (1, "")
    assert nobody.err.startswith("after 200ms: no node of shop: registry local (")
    async with serving(CheckOnly()) as addresses:
        few = await pymicro("wait", "shop", "--nodes=3", "--timeout=500ms", **static(*addresses))
        assert (few.code, few.err) == (1, "after 500ms 1 of 3 nodes of shop take calls\n")


async def test_bad_input(pymicro: Commands) -> None:
    for argv in (("--nodes=0",), ("--timeout=soon",), ("--address=nowhere",), ()):
        result = await pymicro("wait", *argv, *(["shop"] if argv else []))
        assert (result.code, result.out) == (2, "")
        assert len(result.err.splitlines()) <= 2
        assert result.err.startswith("pymicro wait: ")
        assert "Traceback" not in result.err
