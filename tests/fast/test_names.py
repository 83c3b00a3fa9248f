"""A name is followed as its addresses change, as grpc-core follows it."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import grpc.aio
import pytest

import pymicro
from greeter.v1 import greeter_pb2 as pb
from pymicro import Client, Node
from pymicro.calling.connections.fast import names
from tests.calling.backends import backend, hello, stub
from tests.calling.test_names import call_until_answered_by
from tests.calling.test_nodes import _Selector


class Looked:
    """What a name leads to."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        self.asked = 0

    async def getaddrinfo(self, host: str, port: int, **options: Any) -> list[Any]:
        self.asked += 1
        if not self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in self.hosts]


@pytest.fixture
async def looked(monkeypatch: pytest.MonkeyPatch) -> Looked:
    found = Looked()
    loop = asyncio.get_running_loop()
    plain = loop.getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **options: Any) -> Any:
        return await (found.getaddrinfo if host == "greeter.svc" else plain)(host, port, **options)

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(names, "_BETWEEN", 0.05)
    return found


def client_of(port: str) -> Client:
    node = Node("name", f"dns:///greeter.svc:{port}", "greeter", kind="name")
    return Client(selector=_Selector(pymicro.NodeSet.of([node])), transport="fast")


@pytest.mark.skipif(sys.platform != "linux", reason="all of 127.0.0.0/8 is this machine on Linux only")
async def test_pods_that_come_and_leave_behind_a_name_are_followed_without_a_failed_call(
    looked: Looked,
) -> None:
    age = (("grpc.max_connection_age_ms", 300),)
    async with backend(address="127.0.0.1:0", options=age) as first:
        port = first.node.address.rpartition(":")[2]
        async with backend(address=f"127.0.0.2:{port}", options=age) as second, client_of(port) as client:
            looked.hosts = ("127.0.0.1",)
            await call_until_answered_by(client, {first})
            assert second.calls == 0
            looked.hosts = ("127.0.0.1", "127.0.0.2")
            await call_until_answered_by(client, {first, second})
            looked.hosts = ("127.0.0.2",)
            await call_until_answered_by(client, {second})


async def test_a_call_waits_for_the_name_and_fails_with_the_resolvers_words(looked: Looked) -> None:
    async with backend() as server, client_of(server.node.address.rpartition(":")[2]) as client:
        with pytest.raises(pymicro.Unavailable, match=r"greeter\.svc.*not known"):
            await stub(client).SayHello(hello(), timeout=5)
        looked.hosts = ("127.0.0.1",)
        reply = await stub(client).SayHello(hello(), timeout=10, wait_for_ready=True)
        assert reply.message == "Hello Ada"


async def test_a_stream_outlives_the_address_that_it_runs_on(looked: Looked) -> None:
    async with backend() as server, client_of(server.node.address.rpartition(":")[2]) as client:
        looked.hosts = ("127.0.0.1",)
        chat = stub(client).Chat()
        await chat.write(pb.ChatMessage(text="here"))
        assert (await chat.read()).text == "HERE"
        (channel,) = client._core._pool._channels.values()
        connections = channel.connection
        assert isinstance(connections, names.NamedConnections)
        looked.hosts = ("127.0.0.9",)
        asked = looked.asked
        connections._look_now()
        assert connections._looking is not None
        await connections._looking
        assert looked.asked == asked + 1
        assert [host for host, _ in connections._members] == ["127.0.0.9"]
        await chat.write(pb.ChatMessage(text="still"))
        assert (await chat.read()).text == "STILL"
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
