"""Long streams are spread evenly, over nodes known and new."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import pymicro
from pymicro import Client
from tests.calling.backends import backend, connected, greeter, hello, stub


class Streams:
    """Streams that stay open: each has had its first response."""

    def __init__(self, client: Client) -> None:
        self._stub = stub(client)
        self._calls: list[Any] = []

    async def open(self, count: int) -> None:
        for _ in range(count):
            call = self._stub.Chat()
            self._calls.append(call)
            await call.write(hello())
            await call.read()

    def by_node(self) -> list[int]:
        return sorted(Counter(call._state.node.key for call in self._calls).values())

    def close(self) -> None:
        for call in self._calls:
            call.cancel()


async def test_streams_are_even_where_one_node_has_answered_a_call_before() -> None:
    async with greeter(2) as (client, _, _):
        await connected(client, 2)
        await stub(client).SayHello(hello())
        streams = Streams(client)
        await streams.open(40)
        assert max(streams.by_node()) <= 1.1 * 20
        streams.close()


async def test_a_new_node_gets_its_share_of_streams() -> None:
    async with greeter(2) as (client, registry, _):
        await connected(client, 2)
        for _ in range(20):
            await stub(client).SayHello(hello())
        streams = Streams(client)
        await streams.open(20)
        async with backend(registry):
            await connected(client, 3)
            await streams.open(40)
            assert max(streams.by_node()) <= 1.1 * 20
            streams.close()


async def test_a_stream_that_was_answered_and_ends_at_its_deadline_ejects_nobody() -> None:
    async with greeter(2, balancer="round_robin") as (client, _, _):
        target = await connected(client, 2)
        for _ in range(12):  # five in a row would do
            call = stub(client).Chat(timeout=0.2)
            await call.write(hello())
            await call.read()
            with pytest.raises(pymicro.DeadlineExceeded):
                await call.read()
        assert not target.chooser.ejected
