"""Nodes that speak something else than gRPC are known and never called, whatever lists them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

import pymicro
from pymicro import Client, MemoryRegistry, Node
from pymicro.calling.connections.dialled import Dialled
from pymicro.nodes.node import NodeSet
from pymicro.nodes.record import load_record
from pymicro.nodes.wellknown import other_protocol, others_text

from .backends import backend, connected, greeter, hello, stub

MUCP = Node("mucp", "127.0.0.1:1", "greeter", metadata={"protocol": "mucp"})


@pytest.mark.parametrize(
    ("metadata", "protocol"),
    [
        ({}, ""),
        ({"zone": "a"}, ""),
        ({"protocol": ""}, ""),
        ({"protocol": "grpc"}, ""),
        ({"protocol": "grpc", "topic": "news"}, ""),
        ({"protocol": "http"}, "http"),
        ({"protocol": "mucp"}, "mucp"),
        ({"topic": "news", "broker": "http"}, "pub/sub"),
        ({"topic": ""}, "pub/sub"),
        ({"protocol": "\x1b[2J"}, "something else"),
        ({"protocol": "x" * 33}, "something else"),
    ],
)
def test_what_a_node_speaks(metadata: dict[str, str], protocol: str) -> None:
    assert other_protocol(metadata) == protocol


def test_others_are_counted_and_named_once() -> None:
    assert others_text(["http"]) == "1 node speaks another protocol (http)"
    assert others_text(["mucp", "http", "mucp"]) == "3 nodes speak another protocol (http, mucp)"


async def test_they_are_listed_and_never_called() -> None:
    async with greeter(2, balancer="round_robin") as (client, registry, servers):
        topic = Node("sub", "127.0.0.1:1", "greeter", metadata={"topic": "news"})
        for node in (MUCP, topic):
            await registry.register(node)
        await connected(client, 2)
        greet = stub(client)
        answers = Counter([(await greet.SayHello(hello())).address for _ in range(20)])
        assert answers == {server.node.address: 10 for server in servers}
        target = client.channel("greeter").open()
        assert {node.id for node in target.nodes or ()} == {server.node.id for server in servers}
        assert len(target.channels) == 2
        listed = {node.id for node in await client.nodes("greeter")}
        assert listed == {"mucp", "sub", *(server.node.id for server in servers)}


class _Registry:
    """A third party's: whatever it is told."""

    name = "theirs"
    drain_delay = 0.0

    def __init__(self) -> None:
        self.sets: asyncio.Queue[NodeSet] = asyncio.Queue()

    def describe(self) -> str:
        return "registry theirs"

    async def __aenter__(self) -> _Registry:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def register(self, node: Node) -> None:
        raise NotImplementedError

    async def deregister(self, node: Node) -> None:
        raise NotImplementedError

    async def watch(self, service: str) -> AsyncIterator[NodeSet]:
        while True:
            yield await self.sets.get()

    async def services(self) -> list[str]:
        return ["greeter"]


async def test_a_node_that_changes_what_it_speaks_is_called_or_left_from_then_on() -> None:
    registry: Any = _Registry()
    async with backend() as server, Client(registry=registry) as client:
        node = replace(server.node, service="greeter")
        registry.sets.put_nowait(NodeSet.of([MUCP, node]))
        greet = stub(client)
        await greet.SayHello(hello())
        target = client.channel("greeter").open()

        async def turned(metadata: dict[str, str], count: int) -> None:
            registry.sets.put_nowait(NodeSet.of([MUCP, replace(node, metadata=metadata)]))
            async with asyncio.timeout(10):
                while target.nodes is None or len(target.nodes) != count:
                    await target.change()

        await turned({"protocol": "http"}, 0)
        with pytest.raises(pymicro.Unavailable) as caught:
            await greet.SayHello(hello())
        assert "registry theirs listed 2 nodes" in caught.value.details()
        assert caught.value.details().endswith("; 2 nodes speak another protocol (http, mucp)")
        await turned({"protocol": "grpc"}, 1)
        assert (await greet.SayHello(hello())).message == "Hello Ada"
        registry.sets.put_nowait(NodeSet.of([node]))


async def test_they_are_told_apart_from_those_that_a_filter_leaves_out() -> None:
    registry = MemoryRegistry()
    async with registry, Client(registry=registry) as client:
        await registry.register(MUCP)
        await registry.register(Node("one", "127.0.0.1:2", "greeter", "1"))
        with pytest.raises(pymicro.Unavailable) as caught:
            await stub(client, version="2").SayHello(hello())
        assert caught.value.details().endswith(
            "; 1 node speaks another protocol (mucp); none of the other 1 has version '2'"
        )


def test_a_set_without_others_is_passed_on_as_it_is() -> None:
    nodes = NodeSet.of(Node(str(number), f"h:{number}") for number in range(100))
    dialled = Dialled()
    assert dialled.of(nodes) is nodes
    assert dialled.of(nodes) is nodes


def test_only_what_has_changed_is_looked_at() -> None:
    class Counted(dict[str, str]):
        looks = 0

        def get(self, *arguments: Any) -> Any:
            Counted.looks += 1
            return super().get(*arguments)

    nodes = [Node(f"{number:05}", f"h:{number}", metadata=Counted()) for number in range(1000)]
    dialled = Dialled()
    dialled.of(NodeSet.of(nodes))
    Counted.looks = 0
    nodes[500] = Node("00500", "h:500", metadata={"protocol": "http"})
    assert len(dialled.of(NodeSet.of(nodes))) == 999
    nodes[10] = Node("00010", "h:10", metadata=Counted())
    assert len(dialled.of(NodeSet.of(nodes))) == 999
    assert Counted.looks == 1
    assert dialled.others == {"00500@h:500": "http"}


# go-micro's records


RECORD = (
    '{"name":"greeter","version":"%s","metadata":null,"endpoints":%s,"nodes":[{"id":"%s","address":"%s",'
    '"metadata":{"broker":"http","protocol":"grpc","registry":"etcd","server":"grpc","transport":"grpc"%s}}]}'
)


async def test_filters_choose_among_go_micros_records() -> None:
    endpoints = '[{"name":"Greeter.Hello","request":null,"response":null,"metadata":{}}]'
    registry: Any = _Registry()
    async with (
        backend() as old,
        backend() as new,
        backend() as silent,
        Client(registry=registry) as client,
    ):
        texts = [
            RECORD % ("1", '[{"name":"Greeter.Bye"}]', "a", old.node.address, ',"zone":"a"'),
            RECORD % ("2", endpoints, "b", new.node.address, ',"zone":"b"'),
            RECORD % ("3", "null", "c", silent.node.address, ""),
        ]
        sets = NodeSet.of(node for text in texts for node in load_record(text).nodes)

        async def called(**which: Any) -> set[str]:
            greet = stub(client, **which)
            return {(await greet.SayHello(hello())).address for _ in range(20)}

        registry.sets.put_nowait(sets)
        assert await called(version="1") == {old.node.address}
        assert await called(metadata={"zone": "b", "protocol": "grpc"}) == {new.node.address}
        await connected(client, 3)
        assert await called(endpoint="Greeter.Hello") == {new.node.address, silent.node.address}
        assert await called(endpoint="Greeter.Hello", version="2") == {new.node.address}
        with pytest.raises(pymicro.Unavailable, match=r"has version '1' and endpoint Greeter\.Hello"):
            await called(endpoint="Greeter.Hello", version="1")
