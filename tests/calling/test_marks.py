"""The mark "may run twice" holds for the peer that said it: its service, method and process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

import pymicro
from pymicro import Client, MemoryRegistry, Node

from .backends import connected
from .test_interceptor_orders import KINDS, ORDERS
from .wire import Wire, wire

PATH = "/t.T/Get"
MARK = (("pymicro-idempotent", "1"),)


class _Node:
    """A node behind a wire that can be cut.

    Attributes:
        marked: Whether its answers say that the method may run twice.
        ran: How many calls it ran.
        wait: Whether its calls wait for the wire to be cut.
    """

    def __init__(self, marked: bool) -> None:
        self.marked = marked
        self.ran = 0
        self.wait = False
        self.running = asyncio.Event()
        self.wire: Wire
        self.node: Node

    async def get(self, request: bytes, context: Any) -> bytes:
        self.ran += 1
        self.running.set()
        if self.wait:
            await asyncio.Event().wait()  # ends when the connection does
        if self.marked:
            context.set_trailing_metadata(MARK)
        return b"done"

    def handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            "t.T", {"Get": grpc.unary_unary_rpc_method_handler(self.get)}
        )


class _Nodes:
    """Nodes of several services, which all have the same proto, and a client for them."""

    def __init__(self, client: Client, registry: MemoryRegistry, stack: contextlib.AsyncExitStack) -> None:
        self.client = client
        self.registry = registry
        self._stack = stack

    async def start(self, service: str, *, marked: bool) -> _Node:
        made = _Node(marked)
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.add_generic_rpc_handlers((made.handler(),))
        await server.start()
        self._stack.push_async_callback(server.stop, None)
        made.wire = await self._stack.enter_async_context(wire(f"127.0.0.1:{port}"))
        made.node = Node(f"n{port}", made.wire.address, service)
        await self.registry.register(made.node)
        return made

    def get(self, service: str) -> Any:
        return self.client.channel(service).unary_unary(PATH)

    async def answered(self, service: str, *nodes: _Node) -> None:
        """Each of these, which are all nodes of the service, has answered a call."""
        await connected(self.client, len(nodes), service)
        get = self.get(service)
        for _ in nodes:  # round robin
            await get(b"x", timeout=5)
        assert [node.ran for node in nodes] == [1] * len(nodes)


@asynccontextmanager
async def _nodes(chain: tuple[str, ...] = ()) -> AsyncIterator[_Nodes]:
    async with (
        MemoryRegistry() as registry,
        contextlib.AsyncExitStack() as stack,
        Client(
            registry=registry,
            balancer="round_robin",
            outlier_ejection="off",
            interceptors=[KINDS[kind]([]) for kind in chain],
        ) as client,
    ):
        yield _Nodes(client, registry, stack)


async def _die_in_mid_call(get: Any, *nodes: _Node) -> str:
    """Make a call and cut the connection of the node that runs it; how the call ended."""
    before = sum(node.ran for node in nodes)
    for node in nodes:
        node.wait = True
        node.running.clear()
    call = asyncio.ensure_future(_outcome(get(b"x", timeout=5)))
    async with asyncio.timeout(5):
        begun = [asyncio.ensure_future(node.running.wait()) for node in nodes]
        await asyncio.wait(begun, return_when=asyncio.FIRST_COMPLETED)
        for waiting in begun:
            waiting.cancel()
    for node in nodes:
        if not node.running.is_set():
            node.wait = False
    (running,) = (node for node in nodes if node.running.is_set())
    await running.wire.close()
    ended = await call
    return f"{ended} after {sum(node.ran for node in nodes) - before}"


async def _outcome(call: Any) -> str:
    try:
        await call
    except pymicro.Unavailable:
        return "unavailable"
    return "ok"


@pytest.mark.parametrize("chain", [(), *ORDERS], ids="-".join)
async def test_a_mark_of_one_service_says_nothing_of_another_one_with_the_same_proto(
    chain: tuple[str, ...],
) -> None:
    async with _nodes(chain) as nodes:
        mailer = await nodes.start("mailer", marked=True)
        payments = [await nodes.start("payments", marked=False) for _ in range(2)]
        await nodes.answered("mailer", mailer)
        await connected(nodes.client, 2, "payments")
        assert await _die_in_mid_call(nodes.get("payments"), *payments) == "unavailable after 1"


async def test_a_node_that_says_nothing_is_not_marked_by_the_answers_of_another_service() -> None:
    async with _nodes() as nodes:
        mailer = await nodes.start("mailer", marked=True)
        payments = [await nodes.start("payments", marked=False) for _ in range(2)]
        await nodes.answered("payments", *payments)
        await nodes.answered("mailer", mailer)
        assert await _die_in_mid_call(nodes.get("payments"), *payments) == "unavailable after 1"


@pytest.mark.parametrize("chain", [(), *ORDERS], ids="-".join)
async def test_an_unmarked_service_asked_first_hides_no_mark_of_another_one(chain: tuple[str, ...]) -> None:
    async with _nodes(chain) as nodes:
        payments = await nodes.start("payments", marked=False)
        mailers = [await nodes.start("mailer", marked=True) for _ in range(2)]
        await nodes.answered("payments", payments)
        await nodes.answered("mailer", *mailers)
        assert await _die_in_mid_call(nodes.get("mailer"), *mailers) == "ok after 2"


@pytest.mark.parametrize(
    ("before", "after", "ended"), [(True, False, "unavailable after 1"), (False, True, "ok after 2")]
)
async def test_a_rollout_that_changes_the_mark_is_noticed(before: bool, after: bool, ended: str) -> None:
    async with _nodes() as nodes:
        old = await nodes.start("t", marked=before)
        await nodes.answered("t", old)
        new = [await nodes.start("t", marked=after) for _ in range(2)]
        await connected(nodes.client, 3, "t")
        await nodes.registry.deregister(old.node)
        await connected(nodes.client, 2, "t")
        await nodes.answered("t", *new)
        assert await _die_in_mid_call(nodes.get("t"), *new) == ended


async def test_a_process_that_takes_a_nodes_address_speaks_for_itself() -> None:
    async with _nodes() as nodes:
        node, other = [await nodes.start("t", marked=True) for _ in range(2)]
        await nodes.answered("t", node, other)
        target = await connected(nodes.client, 2, "t")
        channels = list(target.channels.values())
        readies = [channel.readies for channel in channels]
        # Both are started again under their names, with the mark taken away.
        for restarted in (node, other):
            restarted.marked = False
            await restarted.wire.close()
        async with asyncio.timeout(10):
            while not all(
                channel.readies > count and channel.ready() and channel.pickable
                for channel, count in zip(channels, readies, strict=True)
            ):
                await target.change()
        await connected(nodes.client, 2, "t")
        assert await _die_in_mid_call(nodes.get("t"), node, other) == "unavailable after 1"


async def test_what_a_marked_node_ran_is_not_given_to_one_that_says_it_must_not_run_twice() -> None:
    async with _nodes() as nodes:
        marked = await nodes.start("t", marked=True)
        unmarked = await nodes.start("t", marked=False)
        await nodes.answered("t", marked, unmarked)
        get = nodes.get("t")
        marked.wait = True
        marked.running.clear()
        calls = [asyncio.ensure_future(_outcome(get(b"x", timeout=5))) for _ in range(2)]  # round robin
        async with asyncio.timeout(5):
            await marked.running.wait()
        await marked.wire.close()
        assert sorted(await asyncio.gather(*calls)) == ["ok", "unavailable"]
        assert (marked.ran, unmarked.ran) == (2, 2)
