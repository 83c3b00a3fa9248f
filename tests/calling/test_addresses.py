"""A channel to a service that is in no registry: the program gives its addresses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pymicro
from pymicro import Client, ConfigError, MemoryRegistry
from pymicro.runtime.admin_port import _target

from .backends import backend, greeter, hello, stub


async def test_calls_are_balanced_over_the_addresses_and_the_registry_is_not_asked() -> None:
    async with (
        greeter(1) as (client, _, (listed,)),
        backend() as first,
        backend() as second,
    ):
        channel: dict[str, Any] = {"address": [first.node.address, second.node.address]}
        greet = stub(client, **channel)
        async with asyncio.timeout(30):
            while not (first.calls and second.calls):
                await greet.SayHello(hello())
        assert listed.calls == 0
        # The service of the same name in the registry is called by other channels.
        assert (await stub(client).SayHello(hello())).address == listed.node.address


async def test_one_address_is_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the operator says of the registry does not touch it.
    monkeypatch.setenv("MICRO_REGISTRY", "static")
    monkeypatch.setenv("MICRO_REGISTRY_ADDRESS", "greeter=127.0.0.1:1")
    async with backend() as server, Client() as client:
        greet = stub(client, address=server.node.address)
        assert (await greet.SayHello(hello())).message == "Hello Ada"


async def test_behind_a_name_calls_take_every_address() -> None:
    async with backend() as server, Client(registry=MemoryRegistry()) as client:
        port = server.node.address.rpartition(":")[2]
        target = client.channel("greeter", address=f"localhost:{port}").open()
        assert (await stub(client, address=f"localhost:{port}").SayHello(hello())).message == "Hello Ada"
        (node,) = target.nodes
        assert (node.kind, node.address) == ("name", f"localhost:{port}")


async def test_a_node_that_dies_is_left_out_as_usual() -> None:
    async with Client(registry=MemoryRegistry(), balancer="round_robin") as client, backend() as stays:
        async with backend() as dies:
            address = (stays.node.address, dies.node.address)
            target = client.channel("greeter", address=address).open()
            greet = stub(client, address=address)
            async with asyncio.timeout(30):
                while not (stays.calls and dies.calls):
                    await greet.SayHello(hello())
        # A call that is on its way while the connection breaks may have run, and is not sent again.
        async with asyncio.timeout(30):
            while any(
                one.pickable for one in target.channels.values() if one.node.address == dies.node.address
            ):
                await target.change()
        for _ in range(20):
            assert (await greet.SayHello(hello())).address == stays.node.address


async def test_channels_of_the_same_addresses_share_their_target() -> None:
    async with greeter(1) as (client, _, (server,)):
        address = server.node.address
        one = client.channel("greeter", address=[address, "127.0.0.1:1"])
        two = client.channel("greeter", address=("127.0.0.1:1", address))
        other = client.channel("greeter", address=address)
        assert one.open() is two.open()
        assert other.open() is not one.open()
        assert client.channel("greeter").open() not in (one.open(), other.open())


async def test_messages_and_the_admin_port_name_the_source() -> None:
    async with Client(registry=MemoryRegistry(), client_first_wait=0) as client:
        greet = stub(client, address="127.0.0.1:1")
        with pytest.raises(pymicro.Unavailable, match="refused"):
            await greet.SayHello(hello())
        (target,) = client.core.targets
        shown = _target(client, target)
        assert shown["selector"] == "address"
        assert shown["source"] == "address= of its channel (127.0.0.1:1)"
        assert shown["known"] == len(target.nodes) == 1


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "'' has no port"),
        ("10.0.0.5", "'10.0.0.5' has no port"),
        ([], "has no address"),
        (["10.0.0.5:1", "10.0.0.5:1"], "10.0.0.5:1 is there twice"),
        ("10.0.0.5:0", "0 is no port that can be dialled"),
        (":80", "the host is missing"),
        ("dns:80", "gRPC takes dns: for a scheme"),
        ("dns:///x:80", "has no port"),
        ("[x]:80", "in brackets is no IPv6 address"),
        ([80], "80 is no text"),
    ],
)
def test_what_is_no_address_is_refused_where_it_is_given(address: Any, words: str) -> None:
    client = Client(registry=MemoryRegistry())
    with pytest.raises(ConfigError, match=r"^address= of channel shop") as caught:
        client.channel("shop", address=address)
    assert words in str(caught.value)


@pytest.mark.parametrize("choice", [{"version": "2"}, {"metadata": {"a": "b"}}, {"endpoint": "Shop.Buy"}])
def test_what_chooses_among_registered_nodes_does_not_go_with_it(choice: Any) -> None:
    client = Client(registry=MemoryRegistry())
    with pytest.raises(ConfigError, match="choose among nodes of the registry"):
        client.channel("shop", address="10.0.0.5:80", **choice)


async def test_a_service_has_it_too() -> None:
    service = pymicro.Service(name="front", registry=MemoryRegistry())
    assert service.channel("shop", address="10.0.0.5:80").service == "shop"
