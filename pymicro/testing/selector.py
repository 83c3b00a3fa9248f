"""What every selector must do, as tests to inherit.

class TestMySelector(SelectorContract):
    @asynccontextmanager
    async def make(self):
        async with node_source(Node("a", "127.0.0.1:1", "greeter")) as source:
            yield Mine(Config(), source)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar

import pytest

from pymicro.base.errors import RegistryError
from pymicro.discovery.directory import Directory
from pymicro.discovery.registries.memory import MemoryRegistry
from pymicro.discovery.selector import NodeSource, Selector
from pymicro.nodes.node import Node
from pymicro.testing.waiting import closed, first, nothing_left_of

__all__ = ["SelectorContract", "node_source"]


@asynccontextmanager
async def node_source(*nodes: Node) -> AsyncIterator[NodeSource]:
    """The source that a selector under test gets: open, with these nodes."""
    async with MemoryRegistry() as registry, Directory(registry) as source:
        for node in nodes:
            await registry.register(node)
        yield source


class SelectorContract:
    """The suite.

    Attributes:
        patience: Seconds a first set may take.
        service: A service that has nodes.
        unknown: A service without nodes; empty if the selector cannot tell.
        refused: A name the selector refuses; empty if there is none.
    """

    pytestmark = pytest.mark.asyncio

    patience: ClassVar[float] = 5.0
    service: ClassVar[str] = "greeter"
    unknown: ClassVar[str] = ""
    refused: ClassVar[str] = ""

    def make(self) -> AbstractAsyncContextManager[Selector]:
        """A context whose value is a selector with everything it needs open."""
        raise NotImplementedError("define make()")

    async def test_a_service_that_has_nodes_yields_them(self) -> None:
        async with self.make() as selector:
            sets = selector.watch(self.service)
            nodes = await first(sets, within=self.patience)
            assert nodes, f"{self.service} has no nodes"
            assert all(node.address for node in nodes), "a node without an address cannot be dialled"
            assert all(node.kind in ("address", "name") for node in nodes)
            await closed(sets)

    async def test_a_service_without_nodes_yields_an_empty_set(self) -> None:
        if not self.unknown:
            pytest.skip("it cannot tell which services have nodes")
        async with self.make() as selector:
            sets = selector.watch(self.unknown)
            nodes = await first(sets, within=self.patience)
            assert not nodes, f"{self.unknown} has {len(nodes)} nodes"
            await closed(sets)

    async def test_a_name_it_cannot_use_is_refused_with_that_name(self) -> None:
        if not self.refused:
            pytest.skip("it takes any name")
        async with self.make() as selector:
            sets = selector.watch(self.refused)
            with pytest.raises(RegistryError) as refusal:
                await first(sets, within=self.patience)
            assert self.refused in str(refusal.value), f"the message lacks the name: {refusal.value}"
            await closed(sets)

    async def test_two_watches_of_a_service_agree(self) -> None:
        async with self.make() as selector:
            one, two = selector.watch(self.service), selector.watch(self.service)
            assert await first(one, within=self.patience) == await first(two, within=self.patience)
            await closed(one)
            await closed(two)

    async def test_a_watch_stays_open(self) -> None:
        async with self.make() as selector:
            sets = selector.watch(self.service)
            await first(sets, within=self.patience)
            more = asyncio.ensure_future(anext(sets))
            await asyncio.wait([more], timeout=0.1)
            ended = more.done() and isinstance(more.exception(), StopAsyncIteration)
            more.cancel()
            await asyncio.wait([more])
            assert not ended, "the watch ended by itself: its reader would take that for a failure"

    async def test_a_refresh_is_only_a_hint(self) -> None:
        async with self.make() as selector:
            assert selector.refresh("nobody-watches-this") is None  # type: ignore[func-returns-value]
            sets = selector.watch(self.service)
            before = await first(sets, within=self.patience)
            for _ in range(10):
                selector.refresh(self.service)
            await closed(sets)
            sets = selector.watch(self.service)
            assert await first(sets, within=self.patience) == before
            await closed(sets)

    async def test_a_cancelled_watch_leaves_nothing_behind(self) -> None:
        before = asyncio.all_tasks()
        async with self.make() as selector:
            begun = asyncio.Event()

            async def read() -> None:
                sets = selector.watch(self.service)
                try:
                    async for _ in sets:
                        begun.set()
                finally:
                    await closed(sets)

            reader = asyncio.create_task(read())
            await asyncio.wait_for(begun.wait(), self.patience)
            reader.cancel()
            _, late = await asyncio.wait([reader], timeout=self.patience)
            assert not late, "the watch swallowed its cancellation"
            assert reader.cancelled(), "the watch turned its cancellation into something else"
        await nothing_left_of(before)

    async def test_it_says_what_it_asks(self) -> None:
        async with self.make() as selector:
            assert selector.name
            assert isinstance(selector.uses_registry, bool)
            text = selector.describe(self.service)
            assert text, "describe() is empty"
            assert "\n" not in text, f"describe() goes into one line of a message: {text!r}"
