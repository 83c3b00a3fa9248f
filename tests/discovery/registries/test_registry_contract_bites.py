"""Registries broken on purpose fail the contract suite, each at the test made for its fault."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from pymicro.base.errors import RegistryError
from pymicro.discovery.registries.memory import MemoryRegistry
from pymicro.discovery.registry import Registry
from pymicro.nodes.node import EMPTY, Node, NodeSet
from pymicro.settings.config import load
from pymicro.testing.registry import RegistryContract

Sets = AsyncGenerator[NodeSet, None]


class Sound(MemoryRegistry):
    """`memory` with an outage that works as it should."""

    away: ClassVar[asyncio.Event | None] = None

    async def watch(self, service: str) -> Sets:
        away = type(self).away or asyncio.Event()
        if away.is_set():
            raise RegistryError("away")
        gone = asyncio.create_task(away.wait())
        sets = super().watch(service)
        coming: asyncio.Task[NodeSet] | None = None
        try:
            while True:
                coming = asyncio.ensure_future(anext(sets))  # type: ignore[arg-type]
                await asyncio.wait([coming, gone], return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    raise RegistryError("away")
                yield coming.result()
        finally:
            for task in (gone, coming):
                if task is not None:
                    task.cancel()
                    await asyncio.wait([task])
            await sets.aclose()


class SilentWithoutNodes(Sound):
    async def watch(self, service: str) -> Sets:
        async for nodes in super().watch(service):
            if nodes:
                yield nodes


class OnlyGrows(Sound):
    async def watch(self, service: str) -> Sets:
        known: dict[str, Node] = {}
        async for nodes in super().watch(service):
            known.update({node.key: node for node in nodes})
            yield NodeSet.of(known.values())


class Deltas(Sound):
    async def watch(self, service: str) -> Sets:
        known: set[Node] = set()
        async for nodes in super().watch(service):
            yield NodeSet.of(set(nodes) - known)
            known = set(nodes)


class EverySetEver(Sound):
    """Queues each set for each reader instead of keeping the newest."""

    async def watch(self, service: str) -> Sets:
        queue: asyncio.Queue[NodeSet] = asyncio.Queue()

        async def fill() -> None:
            async for nodes in Sound.watch(self, service):
                queue.put_nowait(nodes)

        task = asyncio.create_task(fill())
        try:
            while True:
                yield await queue.get()
        finally:
            task.cancel()
            await asyncio.wait([task])


class HeldUpByTheSlowest(Sound):
    """One reader at a time may be handed a set."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._turn = asyncio.Lock()

    async def watch(self, service: str) -> Sets:
        async for nodes in super().watch(service):
            async with self._turn:
                yield nodes


class LeavesATask(Sound):
    async def watch(self, service: str) -> Sets:
        task = asyncio.create_task(asyncio.Event().wait(), name="left by the broken registry")
        try:
            async for nodes in super().watch(service):
                yield nodes
        finally:
            task.set_name("left by the broken registry's watch")


class SwallowsCancellation(Sound):
    async def watch(self, service: str) -> Sets:
        yield EMPTY
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()


class TurnsCancellationIntoAnEnd(Sound):
    async def watch(self, service: str) -> Sets:
        yield EMPTY
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


class FirstVersionStays(Sound):
    async def register(self, node: Node) -> None:
        if (node.service, node.id) not in self._mine:
            await super().register(node)


class KeyedByAddress(Sound):
    async def register(self, node: Node) -> None:
        await super().register(replace(node, id=node.key))

    async def watch(self, service: str) -> Sets:
        async for nodes in super().watch(service):
            yield NodeSet.of(replace(node, id=node.id.partition("@")[0]) for node in nodes)


class TakesOneWordForAnother(Sound):
    async def watch(self, service: str) -> Sets:
        async for nodes in super().watch(service):
            found = {
                node for name in self._store.services() for node in self._store.entry(name).nodes.values()
            }
            yield NodeSet.of([*nodes, *(node for node in found if node.service.startswith(service))])


class StrictAboutUnknown(Sound):
    async def deregister(self, node: Node) -> None:
        if (node.service, node.id) not in self._mine:
            raise RegistryError("no such node")
        await super().deregister(node)


class CountsRegistrations(Sound):
    """A second register makes a second registration, which one deregister leaves."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._times: dict[str, int] = {}

    async def register(self, node: Node) -> None:
        self._times[node.key] = self._times.get(node.key, 0) + 1
        await super().register(node)

    async def deregister(self, node: Node) -> None:
        self._times[node.key] = self._times.get(node.key, 1) - 1
        if self._times[node.key] <= 0:
            await super().deregister(node)


class OnePage(Sound):
    async def watch(self, service: str) -> Sets:
        async for nodes in super().watch(service):
            yield NodeSet.of(nodes.nodes[:20])


class AsciiNames(Sound):
    async def register(self, node: Node) -> None:
        node.service.encode("ascii")
        await super().register(node)


class LowerCaseNames(Sound):
    async def register(self, node: Node) -> None:
        await super().register(replace(node, service=node.service.lower()))

    def watch(self, service: str) -> Sets:
        return super().watch(service.lower())


class Unsorted(Sound):
    async def watch(self, service: str) -> Sets:
        async for nodes in super().watch(service):
            yield NodeSet(tuple(reversed(nodes.nodes)))

    async def services(self) -> list[str]:
        return list(reversed(await super().services()))


class ListsServicesWithoutNodes(Sound):
    async def services(self) -> list[str]:
        return sorted([*await super().services(), "gone"])


class StaysRegistered(Sound):
    async def __aexit__(self, *exc: object) -> None:
        self._users -= 1


class LeftByTheFirst(Sound):
    async def __aexit__(self, *exc: object) -> None:
        self._users = 1
        await super().__aexit__(None, None, None)


class ClosesOnNewcomers(Sound):
    closed = False

    async def __aexit__(self, *exc: object) -> None:
        last = self._users == 1
        await asyncio.sleep(0)
        self.closed = last
        await super().__aexit__(None, None, None)

    async def watch(self, service: str) -> Sets:
        if self.closed:
            raise RuntimeError("used outside its `async with`")
        async for nodes in super().watch(service):
            yield nodes


class LateToItself(Sound):
    async def watch(self, service: str) -> Sets:
        yield EMPTY
        async for nodes in super().watch(service):
            yield nodes


class OneWatcher(Sound):
    """A second watch takes the first one's place."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._newest: object = None

    async def watch(self, service: str) -> Sets:
        mine = self._newest = object()
        async for nodes in super().watch(service):
            if self._newest is mine:
                yield nodes


class OutageEmpties(Sound):
    async def watch(self, service: str) -> Sets:
        try:
            async for nodes in super().watch(service):
                yield nodes
        except RegistryError:
            yield EMPTY
            raise


class OutageIsHidden(Sound):
    async def watch(self, service: str) -> Sets:
        try:
            async for nodes in super().watch(service):
                yield nodes
        except RegistryError:
            await asyncio.Event().wait()


class NeverComesBack(Sound):
    broken: ClassVar[bool] = False

    async def watch(self, service: str) -> Sets:
        try:
            if type(self).broken:
                raise RegistryError("still away")
            async for nodes in super().watch(service):
                yield nodes
        except RegistryError:
            type(self).broken = True
            raise


class Mumbles(Sound):
    def describe(self) -> str:
        return "something\nsomewhere"


class Suite(RegistryContract):
    """The contract over one of the classes above."""

    many = 50

    def __init__(self, kind: type[Sound], address: str) -> None:
        self.patience = 0.5  # type: ignore[misc]
        self.kind = kind
        self.config = load({"registry_address": [address]}, environ={})
        self.away = asyncio.Event()
        kind.away = self.away

    def make(self) -> Registry:
        return self.kind(self.config)

    @contextlib.asynccontextmanager
    async def owner(self, node: Node) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        async with self.kind(self.config) as registry:
            await registry.register(node)

            async def kill() -> None:
                if self.kind is not LeaseForEver:
                    await registry.deregister(node)

            yield kill

    async def break_source(self) -> None:
        self.away.set()

    async def mend_source(self) -> None:
        self.away.clear()


class LeaseForEver(Sound):
    """Its nodes survive their owner (see `Suite.owner`)."""


FAULTS = [
    (SilentWithoutNodes, "test_a_service_nobody_knows_has_an_empty_set_at_once"),
    (OnlyGrows, "test_a_node_that_is_deregistered_leaves"),
    (OnlyGrows, "test_a_node_that_changes_arrives_changed_and_once"),
    (Deltas, "test_a_node_that_is_added_arrives"),
    (EverySetEver, "test_a_slow_watcher_holds_nobody_up_and_then_sees_the_newest"),
    (HeldUpByTheSlowest, "test_a_slow_watcher_holds_nobody_up_and_then_sees_the_newest"),
    (LeavesATask, "test_nothing_is_left_running_after_it_is_left"),
    (LeavesATask, "test_a_cancelled_watch_leaves_nothing_behind"),
    (SwallowsCancellation, "test_a_cancelled_watch_leaves_nothing_behind"),
    (TurnsCancellationIntoAnEnd, "test_a_cancelled_watch_leaves_nothing_behind"),
    (FirstVersionStays, "test_a_node_that_changes_arrives_changed_and_once"),
    (KeyedByAddress, "test_a_node_that_changes_arrives_changed_and_once"),
    (TakesOneWordForAnother, "test_nodes_of_other_services_stay_out_of_the_set"),
    (StrictAboutUnknown, "test_deregistering_what_is_not_there_is_no_error"),
    (CountsRegistrations, "test_registering_twice_is_one_node_and_keeps_it"),
    (OnePage, "test_many_nodes_arrive_together"),
    (AsciiNames, "test_services_of_any_supported_name_are_found"),
    (LowerCaseNames, "test_services_of_any_supported_name_are_found"),
    (Unsorted, "test_the_first_set_has_every_node_that_was_there"),
    (Unsorted, "test_services_lists_the_names_that_have_nodes_sorted"),
    (ListsServicesWithoutNodes, "test_services_lists_the_names_that_have_nodes_sorted"),
    (StaysRegistered, "test_leaving_deregisters_what_was_registered_from_here"),
    (LeftByTheFirst, "test_it_works_until_the_last_of_its_users_has_left"),
    (ClosesOnNewcomers, "test_who_comes_while_the_last_one_leaves_finds_it_open"),
    (LateToItself, "test_a_node_of_this_process_is_in_its_own_first_set"),
    (OneWatcher, "test_two_watchers_see_the_same"),
    (LeaseForEver, "test_the_node_of_an_owner_that_crashes_leaves"),
    (OutageEmpties, "test_an_outage_is_told_and_never_empties_a_set"),
    (OutageIsHidden, "test_an_outage_is_told_and_never_empties_a_set"),
    (NeverComesBack, "test_an_outage_is_told_and_never_empties_a_set"),
    (Mumbles, "test_it_says_who_and_where_it_is"),
]
ALL_TESTS = sorted(name for name in dir(RegistryContract) if name.startswith("test_"))


@pytest.mark.parametrize("name", ALL_TESTS)
async def test_a_sound_registry_passes(name: str, request: pytest.FixtureRequest) -> None:
    await getattr(Suite(Sound, request.node.nodeid), name)()


@pytest.mark.parametrize(("kind", "name"), FAULTS, ids=[f"{kind.__name__}-{name}" for kind, name in FAULTS])
async def test_a_broken_registry_fails(kind: type[Sound], name: str, request: pytest.FixtureRequest) -> None:
    before = asyncio.all_tasks()
    try:
        with pytest.raises(Exception) as failure:
            await getattr(Suite(kind, request.node.nodeid), name)()
        # The suite's own words, or what the registry raised; never a skipped test.
        assert not isinstance(failure.value, pytest.skip.Exception)
    finally:
        for task in asyncio.all_tasks() - before:
            task.cancel()


def test_every_test_of_the_suite_has_caught_something() -> None:
    never_failed = set(ALL_TESTS) - {name for _, name in FAULTS}
    # A node that comes back: what breaks it breaks the leaving first.
    assert never_failed <= {"test_a_node_comes_back_after_it_was_deregistered"}
