"""Every built-in selector passes the contract suite; selectors broken on purpose fail it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from pymicro.base.errors import RegistryError
from pymicro.discovery.directory import Directory
from pymicro.discovery.registries.memory import MemoryRegistry
from pymicro.discovery.selector import Selector
from pymicro.discovery.selectors.dns import DnsSelector
from pymicro.discovery.selectors.registry import RegistrySelector
from pymicro.discovery.selectors.static import StaticSelector
from pymicro.nodes.node import EMPTY, Node, NodeSet
from pymicro.settings.config import load
from pymicro.testing.selector import SelectorContract, node_source

GREETER = Node(id="a", address="127.0.0.1:1", service="greeter")


class TestRegistry(SelectorContract):
    unknown = "nobody"

    @contextlib.asynccontextmanager
    async def make(self) -> AsyncIterator[Selector]:
        async with node_source(GREETER) as source:
            yield RegistrySelector(load(environ={}), source)


class TestStatic(SelectorContract):
    refused = "größe"

    @contextlib.asynccontextmanager
    async def make(self) -> AsyncIterator[Selector]:
        # It never looks at a directory: one that is not open serves.
        yield StaticSelector(load(environ={}), Directory(MemoryRegistry()), environ={})


class TestDns(SelectorContract):
    service = "localhost:8080"
    unknown = "nobody.example.com:80"
    refused = "größe:80"

    @contextlib.asynccontextmanager
    async def make(self) -> AsyncIterator[Selector]:
        async def resolve(host: str, port: int) -> list[str]:
            return ["127.0.0.1", "::1"] if host == "localhost" else []

        yield DnsSelector(
            load(environ={}), Directory(MemoryRegistry()), environ={}, resolve=resolve, least=0.01
        )


class Sound(RegistrySelector):
    """Selector `registry`, and refuses one name."""

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        if service == "refused":
            raise RegistryError("'refused' is refused")
        async with contextlib.aclosing(self._source.watch(service)) as sets:
            async for nodes in sets:
                yield nodes


class SilentWithoutNodes(Sound):
    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        async for nodes in super().watch(service):
            if nodes:
                yield nodes


class FindsNothing(Sound):
    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        yield EMPTY
        await asyncio.Event().wait()


class RefusesInSilence(Sound):
    def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        return super().watch("nobody" if service == "refused" else service)


class RefusesWithoutTheName(Sound):
    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        if service == "refused":
            raise RegistryError("no")
        async for nodes in super().watch(service):
            yield nodes


class Ends(Sound):
    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        async for nodes in super().watch(service):
            yield nodes
            return


class Dwindles(Sound):
    """Each watch gets what the ones before left."""

    given: int = 0

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        async for nodes in super().watch(service):
            given, self.given = self.given, self.given + 1
            yield NodeSet.of(nodes.nodes[given:])


class WaitsToRefresh(Sound):
    async def refresh(self, service: str) -> None:  # type: ignore[override]
        await asyncio.sleep(0)


class RefreshesWatchedOnly(Sound):
    def refresh(self, service: str) -> None:
        raise KeyError(service)


class LeavesATask(Sound):
    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        self.task = asyncio.create_task(asyncio.Event().wait())
        async for nodes in super().watch(service):
            yield nodes


class SwallowsCancellation(Sound):
    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        yield EMPTY
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()


class Mumbles(Sound):
    def describe(self, service: str) -> str:
        return "\n"


FAULTS: list[tuple[type[Any], str]] = [
    (FindsNothing, "test_a_service_that_has_nodes_yields_them"),
    (SilentWithoutNodes, "test_a_service_without_nodes_yields_an_empty_set"),
    (RefusesInSilence, "test_a_name_it_cannot_use_is_refused_with_that_name"),
    (RefusesWithoutTheName, "test_a_name_it_cannot_use_is_refused_with_that_name"),
    (Dwindles, "test_two_watches_of_a_service_agree"),
    (Ends, "test_a_watch_stays_open"),
    (RefreshesWatchedOnly, "test_a_refresh_is_only_a_hint"),
    (WaitsToRefresh, "test_a_refresh_is_only_a_hint"),
    (LeavesATask, "test_a_cancelled_watch_leaves_nothing_behind"),
    (SwallowsCancellation, "test_a_cancelled_watch_leaves_nothing_behind"),
    (Mumbles, "test_it_says_what_it_asks"),
]
ALL_TESTS = sorted(name for name in dir(SelectorContract) if name.startswith("test_"))


class Suite(SelectorContract):
    patience = 0.5
    unknown = "nobody"
    refused = "refused"

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind

    @contextlib.asynccontextmanager
    async def make(self) -> AsyncIterator[Selector]:
        async with node_source(GREETER) as source:
            yield self.kind(load(environ={}), source)


@pytest.mark.parametrize("name", ALL_TESTS)
async def test_a_sound_selector_passes(name: str) -> None:
    await getattr(Suite(Sound), name)()


@pytest.mark.filterwarnings("ignore:coroutine 'WaitsToRefresh.refresh':RuntimeWarning")
@pytest.mark.parametrize(("kind", "name"), FAULTS, ids=[f"{kind.__name__}-{name}" for kind, name in FAULTS])
async def test_a_broken_selector_fails(kind: type[Any], name: str) -> None:
    before = asyncio.all_tasks()
    try:
        with pytest.raises((AssertionError, KeyError, pytest.fail.Exception)):
            await getattr(Suite(kind), name)()
    finally:
        for task in asyncio.all_tasks() - before:
            task.cancel()


def test_every_test_of_the_suite_has_caught_something() -> None:
    assert set(ALL_TESTS) == {name for _, name in FAULTS}
