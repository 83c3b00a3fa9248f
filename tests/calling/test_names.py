"""A name that grpc-core resolves is followed as its addresses change, as a headless Service's do."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import cast

import dns.flags
import dns.message
import dns.rrset
import pytest

import pymicro
from pymicro import Client, Node
from tests.calling.backends import Backend, backend, hello, stub
from tests.calling.test_nodes import _Selector


class Names(asyncio.DatagramProtocol):
    """A DNS server that answers every question with these addresses."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str | int, int]) -> None:
        question = dns.message.from_wire(data)
        answer = dns.message.make_response(question)
        answer.flags |= dns.flags.AA | dns.flags.RA
        (asked,) = question.question
        if asked.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text_list(asked.name, 5, "IN", "A", self.addresses))
        self.transport.sendto(answer.to_wire(), addr)


@contextlib.asynccontextmanager
async def names(*addresses: str) -> AsyncIterator[Names]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: Names(*addresses), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()


async def call_until_answered_by(client: Client, backends: set[Backend]) -> int:
    """Calls made until each of these, and nobody else, answered the last few; none may fail."""
    greeter, calls = stub(client), 0
    last: list[str] = []
    wanted = {backend.node.address for backend in backends}
    async with asyncio.timeout(20):
        while set(last) != wanted or len(last) < 4:
            last = [*last[-3:], (await greeter.SayHello(hello(), timeout=5)).address]
            calls += 1
            await asyncio.sleep(0.01)
    return calls


@pytest.mark.skipif(sys.platform != "linux", reason="all of 127.0.0.0/8 is this machine on Linux only")
async def test_pods_that_come_and_leave_behind_a_name_are_followed_without_a_failed_call() -> None:
    age = (("grpc.max_connection_age_ms", 500),)
    async with (
        names("127.0.0.1") as server,
        backend(address="127.0.0.1:0", options=age) as first,
        backend(address=f"127.0.0.2:{first.node.address.rpartition(':')[2]}", options=age) as second,
    ):
        port = first.node.address.rpartition(":")[2]
        address = f"dns://127.0.0.1:{server.port}/greeter.default.svc:{port}"
        selector = _Selector(pymicro.NodeSet.of([Node("name", address, "greeter", kind="name")]))
        async with Client(selector=selector) as client:
            await call_until_answered_by(client, {first})
            assert second.calls == 0
            started = asyncio.get_running_loop().time()
            server.addresses = ["127.0.0.1", "127.0.0.2"]
            await call_until_answered_by(client, {first, second})
            # What a connection's end brings about, 5 s after the look-up before at the latest.
            assert asyncio.get_running_loop().time() - started < 8
            server.addresses = ["127.0.0.2"]
            await call_until_answered_by(client, {second})
