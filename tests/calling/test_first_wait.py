"""A client that starts with its servers: its first calls wait a moment for a node, and only those."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import pymicro
from pymicro import Client, MemoryRegistry, NodeSet
from pymicro.calling.connections import first_wait
from pymicro.calling.connections.first_wait import FirstWaits
from pymicro.discovery.registries.local import LocalRegistry
from pymicro.discovery.registries.static import StaticRegistry
from pymicro.discovery.registry import Registry
from pymicro.nodes.node import Node
from pymicro.settings.config import load

from .backends import backend, connected, count_down, greeter, hello, pb, stub

# Seconds: where a call must not wait, a wait of this length fails the test.
HOUR = 3600.0


async def _unary(greet: Any) -> str:
    return str((await greet.SayHello(hello())).message)


async def _responses(greet: Any) -> str:
    return " ".join([str(reply.number) async for reply in greet.CountDown(count_down(1))])


async def _requests(greet: Any) -> str:
    return str((await greet.GreetAll(iter([hello()]))).message)


async def _both(greet: Any) -> str:
    return "".join([reply.text async for reply in greet.Chat(iter([pb.ChatMessage(text="a")]))])


SHAPES = {"unary": (_unary, "Hello Ada"), "responses": (_responses, "1"), "requests": (_requests, "Ada")}
SHAPES["both"] = (_both, "A")


async def _waiting(client: Client, service: str = "greeter") -> Any:
    """The target, as soon as a call waits for its first node."""
    target = client.channel(service).open()
    async with asyncio.timeout(10):
        while not target._waiters or target._look_again is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
    return target


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_first_call_waits_for_a_server_that_starts_meanwhile(shape: str) -> None:
    call, answer = SHAPES[shape]
    async with MemoryRegistry() as registry, Client(registry=registry, client_first_wait=HOUR) as client:
        waiting = asyncio.ensure_future(call(stub(client)))
        await _waiting(client)
        async with backend(registry):
            assert await asyncio.wait_for(waiting, 30) == answer


async def test_a_listed_server_that_does_not_listen_yet_is_waited_for_too() -> None:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    async with Client(
        registry="static", registry_address=f"greeter={address}", client_first_wait=HOUR
    ) as client:
        waiting = asyncio.ensure_future(stub(client).SayHello(hello(), timeout=60))
        target = await _waiting(client)
        async with asyncio.timeout(10):
            while not all(channel.failed for channel in target.channels.values()):
                await target.change()
        assert not waiting.done()
        async with backend(address=address):
            assert (await waiting).message == "Hello Ada"


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_end_of_the_wait_is_unavailable_and_says_where_it_looked(shape: str) -> None:
    call, _ = SHAPES[shape]
    async with MemoryRegistry() as registry, Client(registry=registry, client_first_wait=0.05) as client:
        with pytest.raises(pymicro.Unavailable, match=r"no node for greeter: .*memory"):
            await call(stub(client))


@pytest.mark.parametrize("name", ["local", "memory", "static"])
async def test_the_end_of_the_wait_names_the_service_that_was_meant(name: str, tmp_path: Path) -> None:
    registries: dict[str, Registry] = {
        "local": LocalRegistry(load({"registry_address": str(tmp_path / "r")}, environ={})),
        "memory": MemoryRegistry(),
        "static": StaticRegistry(load({"registry_address": "greeter=127.0.0.1:1"}, environ={})),
    }
    async with registries[name] as registry:
        if name != "static":
            await registry.register(Node("greeter-1", "127.0.0.1:1", "greeter", "", {}))
        async with Client(registry=registry, client_first_wait=0.05) as client:
            with pytest.raises(
                pymicro.Unavailable, match=r"no node for greter: .*; did you mean 'greeter'\? "
            ):
                await stub(client, "greter").SayHello(hello())
            with pytest.raises(pymicro.Unavailable, match=r" ago \(calling"):
                await stub(client, "accounts").SayHello(hello())


async def test_the_wait_ends_before_the_default_deadline() -> None:
    config = pymicro.Client(registry="memory").config
    assert 0 < config.client_first_wait < config.client_request_timeout


async def test_a_shorter_deadline_ends_the_call_first() -> None:
    async with MemoryRegistry() as registry, Client(registry=registry, client_first_wait=HOUR) as client:
        with pytest.raises(pymicro.DeadlineExceeded, match="no node for greeter in time"):
            await stub(client).SayHello(hello(), timeout=0.05)


async def test_the_time_is_counted_once_for_a_name_whatever_the_channel() -> None:
    async with MemoryRegistry() as registry, Client(registry=registry, client_first_wait=0.05) as client:
        with pytest.raises(pymicro.Unavailable):
            await stub(client).SayHello(hello())
        for keywords in ({}, {"version": "2"}, {"options": (("grpc.primary_user_agent", "me"),)}):
            channel = client.channel("greeter", **keywords)
            target = channel.open()
            assert not target.first.lasts(client.core.loop.time())
            with pytest.raises(pymicro.Unavailable):
                await stub(client, **keywords).SayHello(hello())
            assert target._look_again is None  # nothing was waited for


async def test_a_set_that_was_known_and_became_empty_fails_at_once() -> None:
    async with MemoryRegistry() as registry, Client(registry=registry, client_first_wait=HOUR) as client:
        async with backend(registry):
            await stub(client).SayHello(hello())
        await connected(client, 0)
        with pytest.raises(pymicro.Unavailable, match="no node for greeter"):
            await stub(client).SayHello(hello())
        # Another channel to the same name knows that the client has met the service.
        with pytest.raises(pymicro.Unavailable, match="no node for greeter"):
            await stub(client, version="2").SayHello(hello())


async def test_without_the_wait_a_first_call_fails_at_once() -> None:
    async with MemoryRegistry() as registry, Client(registry=registry, client_first_wait=0) as client:
        with pytest.raises(pymicro.Unavailable, match="no node for greeter"):
            await stub(client).SayHello(hello())
        assert client.channel("greeter").open()._look_again is None


class _Deaf:
    """A selector that is told of no change: it gives the nodes when it is asked to look again."""

    name = "deaf"
    uses_registry = False

    def __init__(self) -> None:
        self.nodes = NodeSet(())
        self.asked = asyncio.Event()

    async def watch(self, service: str) -> AsyncIterator[NodeSet]:
        while True:
            yield self.nodes
            self.asked.clear()
            await self.asked.wait()

    def refresh(self, service: str) -> None:
        self.asked.set()

    def describe(self, service: str) -> str:
        return "deaf"


async def test_a_source_that_tells_no_change_is_asked_again_while_a_call_waits() -> None:
    selector = _Deaf()
    async with Client(selector=selector, client_first_wait=HOUR) as client, backend() as server:
        waiting = asyncio.ensure_future(stub(client).SayHello(hello(), timeout=60))
        await _waiting(client)
        selector.nodes = NodeSet((server.node,))
        assert (await waiting).message == "Hello Ada"


async def test_nothing_of_the_wait_is_left_when_the_client_closes() -> None:
    async with MemoryRegistry() as registry:
        async with Client(registry=registry, client_first_wait=HOUR) as client:
            waiting = asyncio.ensure_future(stub(client).SayHello(hello(), timeout=60))
            target = await _waiting(client)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert target._look_again is None


async def test_a_service_that_is_there_costs_no_timer() -> None:
    async with greeter(client_first_wait=HOUR) as (client, _, _):
        target = await connected(client, 1)
        await stub(client).SayHello(hello())
        assert target.first.met
        assert target._look_again is None


def test_ever_new_names_do_not_fill_the_memory() -> None:
    now: Callable[[], float] = lambda: 5.0  # noqa: E731
    waits = FirstWaits(2.0, now)
    first = waits.of("s0")
    assert first is waits.of("s0")
    assert (first.lasts(6.9), first.lasts(7.0)) == (True, False)
    for number in range(1, first_wait.MOST_NAMES + 1):
        waits.of(f"s{number}")
    assert len(waits._by_name) == first_wait.MOST_NAMES
    assert waits.of("s1") is waits.of("s1")
    assert waits.of("s0") is not first
