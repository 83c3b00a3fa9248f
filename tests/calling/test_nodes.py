"""Nodes that come, go, fail and come back, as calls see them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import grpc
import pytest

import pymicro
from pymicro import Client, MemoryRegistry, Node
from pymicro.calling.connections.node_channel import NodeChannel

from .backends import backend, connected, count_down, greeter, hello, stub


async def _spread(client: Client, calls: int, **keywords: Any) -> Counter[str]:
    greet = stub(client, **keywords)
    return Counter([(await greet.SayHello(hello())).address for _ in range(calls)])


async def test_calls_are_spread_evenly_over_all_nodes() -> None:
    async with greeter(3, balancer="round_robin") as (client, _, servers):
        await connected(client, 3)
        assert await _spread(client, 30) == {server.node.address: 10 for server in servers}


@pytest.mark.parametrize("balancer", ["random", "p2c"])
async def test_each_balancer_reaches_all_nodes(balancer: str) -> None:
    async with greeter(3, balancer=balancer) as (client, _, servers):
        await connected(client, 3)
        assert set(await _spread(client, 100)) == {server.node.address for server in servers}


async def test_a_node_that_leaves_gets_no_new_call_and_its_calls_finish() -> None:
    async with greeter(2) as (client, registry, servers):
        await connected(client, 2)
        greet = stub(client)
        held = [asyncio.ensure_future(greet.SayHello(hello("wait"))) for _ in range(2)]
        stream = [greet.CountDown(count_down(9999)) for _ in range(2)]
        leaving, staying = servers
        await leaving.until(lambda: leaving.running == 2)
        node_channel = client._core._pool._channels[_options(client), leaving.node.key, "greeter"]
        await registry.deregister(leaving.node)
        await connected(client, 1)
        before = leaving.calls
        assert await _spread(client, 20) == {staying.node.address: 20}
        assert leaving.calls == before
        assert node_channel.calls == 2
        for server in servers:
            server.release.set()
        assert {(await call).address for call in held} == {server.node.address for server in servers}
        for call in stream:
            assert len([reply async for reply in call]) == 9999
        await _closed(node_channel)


def _options(client: Client) -> Any:
    return next(iter(client._core._pool._channels))[0]


async def _closed(node_channel: NodeChannel) -> None:
    async with asyncio.timeout(10):
        while node_channel.connection.state() is not grpc.ChannelConnectivity.SHUTDOWN:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_node_that_arrives_takes_its_share_without_failing_a_call() -> None:
    # In turn, which is exact; the default goes by latencies too, which differ on a busy machine.
    async with greeter(1, balancer="round_robin") as (client, registry, (first,)):
        assert await _spread(client, 5) == {first.node.address: 5}
        async with backend(registry) as second:
            await connected(client, 2)
            assert await _spread(client, 20) == {first.node.address: 10, second.node.address: 10}


async def test_a_dead_node_in_the_set_costs_no_call() -> None:
    async with greeter(2, balancer="round_robin") as (client, registry, servers):
        await registry.register(Node("dead", _dead_address(), "greeter"))
        assert set(await _spread(client, 20)) <= {server.node.address for server in servers}
        await connected(client, 2)
        assert await _spread(client, 20) == {server.node.address: 10 for server in servers}


def _dead_address() -> str:
    """An address on which nobody listens: bound by us for a moment, without listening."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


async def test_when_every_node_is_dead_the_call_fails_with_the_reason() -> None:
    address = _dead_address()
    async with Client(registry="static", registry_address=f"greeter={address}") as client:
        with pytest.raises(pymicro.Unavailable) as caught:
            await stub(client).SayHello(hello(), timeout=30)
        assert "refused" in caught.value.details()
        assert caught.value.node is not None
        assert caught.value.node.address == address
        with pytest.raises(pymicro.DeadlineExceeded):
            await stub(client).SayHello(hello(), timeout=0.1, wait_for_ready=True)


async def test_a_server_that_restarts_on_its_address_is_used_again() -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(backend())
        address = first.node.address
        client = await stack.enter_async_context(
            Client(registry="static", registry_address=f"greeter={address}")
        )
        await _spread(client, 1)
        assert first.server is not None
        await first.server.stop(None)
        await connected(client, 0)
        async with backend(address=address):
            reply = await stub(client).SayHello(hello(), timeout=20, wait_for_ready=True)
            assert reply.message == "Hello Ada"


async def test_a_connection_that_reaches_its_age_is_made_again_and_fails_no_call() -> None:
    aging = (("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 5000))
    registry = MemoryRegistry()
    async with registry, backend(registry, options=aging), Client(registry=registry) as client:
        greet = stub(client)
        await greet.SayHello(hello())
        (channel,) = client._core._pool._channels.values()
        async with asyncio.timeout(60):
            while channel.changes < 16:  # connections have come and gone
                await asyncio.gather(*(greet.SayHello(hello()) for _ in range(8)))


async def test_an_idle_channel_is_connected_again_and_stays_pickable() -> None:
    idling = (("grpc.client_idle_timeout_ms", 1000),)
    async with greeter() as (client, _, _):
        greet = stub(client, options=idling)
        await greet.SayHello(hello())
        ((_, channel),) = client._core._pool._channels.items()
        before = channel.changes
        async with asyncio.timeout(20):
            while channel.changes < before + 2 or channel.state is not grpc.ChannelConnectivity.READY:
                await asyncio.sleep(0.01)  # grpc-core's own timer; there is nothing to wait on
                assert channel.pickable
        await greet.SayHello(hello())


async def test_filters_choose_by_version_and_metadata() -> None:
    async with (
        greeter(0) as (client, registry, _),
        backend(registry, version="1.1", metadata={"zone": "a"}) as old,
        backend(registry, version="1.2", metadata={"zone": "a"}) as new,
        backend(registry, version="1.2", metadata={"zone": "b"}) as far,
    ):
        assert set(await _spread(client, 10, version="1.1")) == {old.node.address}
        assert set(await _spread(client, 10, version="1.2", metadata={"zone": "a"})) == {new.node.address}
        assert set(await _spread(client, 10, metadata={"zone": "b"})) == {far.node.address}
        with pytest.raises(pymicro.Unavailable, match="none of the 3 has version '9'"):
            await stub(client, version="9").SayHello(hello())
        # The filters share the channels; each has its own balancer.
        assert len(client._core._pool._channels) == 3


async def test_channels_with_other_options_have_connections_of_their_own() -> None:
    async with greeter() as (client, _, _):
        await _spread(client, 1)
        await _spread(client, 1)
        assert len(client._core._pool._channels) == 1
        await _spread(client, 1, options=(("grpc.primary_user_agent", "x"),))
        assert len(client._core._pool._channels) == 2


async def test_the_channel_tells_the_best_nodes_state() -> None:
    async with greeter(2) as (client, registry, servers):
        channel = client.channel("greeter")
        assert channel.get_state() is grpc.ChannelConnectivity.IDLE
        await channel.channel_ready()
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        changed = asyncio.create_task(channel.wait_for_state_change(grpc.ChannelConnectivity.READY))
        for server in servers:
            await registry.deregister(server.node)
        await changed
        assert channel.get_state() is not grpc.ChannelConnectivity.READY


async def test_a_web_proxy_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://{_dead_address()}")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with greeter() as (client, _, _):
        assert (await stub(client).SayHello(hello())).message == "Hello Ada"


async def test_ipv6_loopback() -> None:
    registry = MemoryRegistry()
    async with registry, backend(registry, address="[::1]:0") as server, Client(registry=registry) as client:
        assert server.node.address.startswith("[::1]:")
        assert (await stub(client).SayHello(hello())).message == "Hello Ada"


async def test_many_nodes_are_connected_in_stages_and_all_get_calls() -> None:
    registry = MemoryRegistry()
    async with registry, backend(address="0.0.0.0:0") as server, Client(registry=registry) as client:
        port = server.node.address.rpartition(":")[2]
        for number in range(1, 131):  # every address of 127.0.0.0/8 is this host
            await registry.register(Node(f"n{number}", f"127.0.1.{number}:{port}", "greeter"))
        greet = stub(client)
        await greet.SayHello(hello())
        target = client.channel("greeter").open()
        opened = sum(not item.lazy for item in target.channels.values())
        assert opened <= 116  # a hundred ahead, and those that the first picks asked for
        async with asyncio.timeout(30):
            while any(not item.pickable for item in target.channels.values()):
                await asyncio.gather(*(greet.SayHello(hello()) for _ in range(20)))


async def test_nodes_and_services_for_programs() -> None:
    async with greeter(2) as (client, registry, servers):
        nodes = await client.nodes("greeter")
        assert sorted(node.address for node in nodes) == sorted(server.node.address for server in servers)
        assert await client.nodes("nobody") == ()
        assert await client.services() == ["greeter"]
        watch = client.watch_nodes("greeter")
        assert len(await anext(watch)) == 2
        await registry.deregister(servers[0].node)
        assert [node.address for node in await anext(watch)] == [servers[1].node.address]
        await watch.aclose()


async def test_the_selector_static_leaves_balancing_to_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async with backend() as server:
        monkeypatch.setenv("STATIC_SELECTOR_PORT_NUMBER", server.node.address.rpartition(":")[2])
        async with Client(selector="static") as client:
            assert (await stub(client, "localhost").SayHello(hello())).message == "Hello Ada"
            with pytest.raises(pymicro.Unavailable):
                await stub(client, "no-such-name.invalid").SayHello(hello(), timeout=20)


class _Selector:
    """Gives what it is told to: sets, or errors."""

    name, uses_registry = "scripted", False

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.refreshed: list[str] = []

    def describe(self, service: str) -> str:
        return "a script"

    async def watch(self, service: str) -> Any:
        while self.script:
            item = self.script.pop(0)
            if isinstance(item, Exception):
                raise item
            yield item
        await asyncio.Event().wait()

    def refresh(self, service: str) -> None:
        self.refreshed.append(service)


async def test_a_selector_that_lacks_something_fails_calls_at_once_and_says_what() -> None:
    selector = _Selector(pymicro.PluginError("the selector needs x: pip install x"))
    async with Client(selector=selector) as client:
        with pytest.raises(pymicro.Unavailable, match="pip install x"):
            await stub(client).SayHello(hello(), timeout=60)


async def test_a_selector_that_fails_keeps_the_last_nodes_and_is_asked_again() -> None:
    async with backend() as server:
        nodes = pymicro.NodeSet.of([server.node])
        selector = _Selector(nodes, pymicro.RegistryError("away"), ValueError("a bug"), pymicro.NodeSet())
        async with Client(selector=selector) as client:
            greet = stub(client)
            channel = client.channel("greeter")
            await greet.SayHello(hello())
            target = channel.open()
            async with asyncio.timeout(20):
                while target.nodes:
                    assert (await greet.SayHello(hello())).message == "Hello Ada"
            with pytest.raises(pymicro.Unavailable, match="a script"):
                await greet.SayHello(hello())


async def test_unreachable_nodes_make_the_selector_look_again() -> None:
    selector = _Selector(pymicro.NodeSet.of([Node("dead", _dead_address(), "greeter")]))
    async with Client(selector=selector, client_first_wait=0) as client:
        with pytest.raises(pymicro.Unavailable):
            await stub(client).SayHello(hello())
        assert selector.refreshed == ["greeter"]


async def test_behind_a_name_grpc_core_takes_the_addresses_in_turn() -> None:
    async with backend() as first, backend() as second:
        both = f"ipv4:{first.node.address},{second.node.address}"
        selector = _Selector(pymicro.NodeSet.of([Node("name", both, "greeter", kind="name")]))
        async with Client(selector=selector) as client:
            greet = stub(client)
            async with asyncio.timeout(20):
                while not (first.calls and second.calls):  # both are connected
                    await greet.SayHello(hello())
            before = first.calls, second.calls
            for _ in range(20):
                await greet.SayHello(hello())
            assert (first.calls - before[0], second.calls - before[1]) == (10, 10)


async def test_settings_that_do_nothing_are_said_when_a_client_is_opened(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MICRO_BROKER", "http")
    monkeypatch.setenv("MICRO_REGISTY", "http")
    with caplog.at_level("INFO", "pymicro"):
        async with Client(registry=MemoryRegistry(), client_pool_size=3):
            pass
    for words in ("code, environment MICRO_BROKER", "MICRO_REGISTY is no setting"):
        assert words in caplog.text
