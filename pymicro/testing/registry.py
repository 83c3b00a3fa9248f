"""What every registry must do, as tests to inherit.

    class TestMyRegistry(RegistryContract):
        no_outage = "it keeps everything in one file"

        def make(self) -> Registry:
            return MyRegistry(config)

        @asynccontextmanager
        async def owner(self, node):
            ...

If a test does not apply to a registry, an attribute says why; no test is left out
silently.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import ClassVar

import pytest

from pymicro.base.backoff import Backoff
from pymicro.discovery.directory import Directory
from pymicro.discovery.registry import Registry
from pymicro.nodes.node import Endpoint, Node, NodeSet, Value
from pymicro.testing.waiting import brief, closed, expect, first, nothing_left_of

__all__ = ["RegistryContract"]

_ENDPOINTS = (
    Endpoint(
        "Greeter.SayHello",
        Value("HelloRequest", "HelloRequest", (Value("name", "string"),)),
        Value("HelloReply", "HelloReply", (Value("message", "string"),)),
    ),
    Endpoint("Greeter.CountDown", metadata={"stream": "true"}),
)


def _node(number: int, service: str = "greeter", **changes: object) -> Node:
    node = Node(
        id=f"{service}-{number}",
        address=f"127.0.0.1:{20000 + number}",
        service=service,
        version="1.2.3",
        metadata={"protocol": "grpc", "zone": "größe"},
        endpoints=_ENDPOINTS,
    )
    return replace(node, **changes)  # type: ignore[arg-type]


class RegistryContract:
    """The suite; each test method builds what it needs with `make`.

    pytest makes a new instance for each test: `self` can hold what the
    registries of one test share.

    Attributes:
        patience: Seconds within which any change must be seen, and an outage
            noticed.
        many: Number of nodes in the test with many.
        names: Service names that must work.
        listed: Nodes of service `greeter` that are there from the start, for a
            registry with `no_register`.
        no_register: Why nodes cannot be registered, if so.
        no_crash: Why an owner cannot crash alone, if so; otherwise define `owner`.
        no_outage: Why the registry cannot be away, if so; otherwise define
            `break_source` and `mend_source`.
    """

    pytestmark = pytest.mark.asyncio

    patience: ClassVar[float] = 5.0
    many: ClassVar[int] = 300
    names: ClassVar[Sequence[str]] = ("greeter", "Greeter", "größe", "服务", "🚀", "go.micro.srv.x", "a b/c")
    listed: ClassVar[Sequence[Node]] = ()
    no_register: ClassVar[str] = ""
    no_crash: ClassVar[str] = ""
    no_outage: ClassVar[str] = ""

    # What a subclass defines

    def make(self) -> Registry:
        """A registry that is not entered; all registries of one test see the same nodes."""
        raise NotImplementedError("define make()")

    def seen(self, node: Node) -> Node:
        """`node` as readers see it; for registries that do not carry everything."""
        return node

    def owner(self, node: Node) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        """A context in which another process has registered `node`; its value kills that process."""
        raise NotImplementedError("define owner(), or set no_crash to the reason")

    async def break_source(self) -> None:
        """Make the registries' source unreachable."""
        raise NotImplementedError("define break_source(), or set no_outage to the reason")

    async def mend_source(self) -> None:
        """End the outage that `break_source` began."""
        raise NotImplementedError("define mend_source(), or set no_outage to the reason")

    # Helpers of the tests

    def _needs_register(self) -> None:
        if self.no_register:
            pytest.skip(self.no_register)

    async def _expect(
        self, sets: AsyncIterator[NodeSet], nodes: Sequence[Node], service: str = "greeter"
    ) -> int:
        return await expect(sets, map(self.seen, nodes), within=self.patience, service=service)

    async def _first(self, registry: Registry, service: str = "greeter") -> NodeSet:
        sets = registry.watch(service)
        try:
            return await first(sets, within=self.patience, service=service)
        finally:
            await closed(sets)

    # The first set

    async def test_the_first_set_has_every_node_that_was_there(self) -> None:
        nodes = list(self.listed)
        async with self.make() as registry:
            if not self.no_register:
                nodes = [_node(1), _node(2), _node(3)]
                for node in nodes:
                    await registry.register(node)
            sets = registry.watch("greeter")
            await self._expect(sets, nodes)
            await closed(sets)

    async def test_a_service_nobody_knows_has_an_empty_set_at_once(self) -> None:
        async with self.make() as registry:
            nodes = await self._first(registry, "nobody-knows-this")
            assert nodes == NodeSet(), f"wanted an empty set, got {brief(nodes)}"

    async def test_a_node_of_this_process_is_in_its_own_first_set(self) -> None:
        self._needs_register()
        async with self.make() as registry:
            # Register the second node while a watch is open: a set kept for the first watch
            # is too old for the second.
            earlier = registry.watch("greeter")
            for count in (1, 2):
                await registry.register(_node(count))
                wanted = NodeSet.of(self.seen(_node(number)) for number in range(1, count + 1))
                nodes = await self._first(registry)
                assert nodes == wanted, f"registered {brief(wanted)}, but then saw {brief(nodes)}"
                await first(earlier, within=self.patience)
            await closed(earlier)

    # Changes

    async def test_a_node_that_is_added_arrives(self) -> None:
        self._needs_register()
        async with self.make() as registry, self.make() as other:
            sets = registry.watch("greeter")
            await self._expect(sets, [])
            await other.register(_node(1))
            await self._expect(sets, [_node(1)])
            await other.register(_node(2))
            await self._expect(sets, [_node(1), _node(2)])
            await closed(sets)

    async def test_a_node_that_changes_arrives_changed_and_once(self) -> None:
        self._needs_register()
        async with self.make() as registry, self.make() as other:
            await other.register(_node(1))
            sets = registry.watch("greeter")
            await self._expect(sets, [_node(1)])
            changed = _node(1, metadata={"protocol": "grpc", "zone": "b"}, version="2")
            await other.register(changed)
            await self._expect(sets, [changed])
            moved = _node(1, address="127.0.0.1:30001")
            await other.register(moved)
            await self._expect(sets, [moved])
            await closed(sets)

    async def test_a_node_that_is_deregistered_leaves(self) -> None:
        self._needs_register()
        async with self.make() as registry, self.make() as other:
            await other.register(_node(1))
            await other.register(_node(2))
            sets = registry.watch("greeter")
            await self._expect(sets, [_node(1), _node(2)])
            await other.deregister(_node(1))
            await self._expect(sets, [_node(2)])
            await other.deregister(_node(2))
            await self._expect(sets, [])
            await closed(sets)

    async def test_a_node_comes_back_after_it_was_deregistered(self) -> None:
        self._needs_register()
        async with self.make() as registry:
            sets = registry.watch("greeter")
            await registry.register(_node(1))
            await self._expect(sets, [_node(1)])
            await registry.deregister(_node(1))
            await self._expect(sets, [])
            await registry.register(_node(1))
            await self._expect(sets, [_node(1)])
            await closed(sets)

    async def test_nodes_of_other_services_stay_out_of_the_set(self) -> None:
        self._needs_register()
        async with self.make() as registry:
            sets = registry.watch("greeter")
            await registry.register(_node(1, "greeter-two"))
            await registry.register(_node(1))
            await self._expect(sets, [_node(1)])
            await closed(sets)

    async def test_registering_twice_is_one_node_and_keeps_it(self) -> None:
        self._needs_register()
        async with self.make() as registry:
            await registry.register(_node(1))
            await registry.register(_node(1))
            sets = registry.watch("greeter")
            await self._expect(sets, [_node(1)])
            await registry.deregister(_node(1))
            await self._expect(sets, [])
            await closed(sets)

    async def test_deregistering_what_is_not_there_is_no_error(self) -> None:
        async with self.make() as registry:
            await registry.deregister(_node(1))
            if not self.no_register:
                await registry.register(_node(1))
                await registry.deregister(_node(1))
                await registry.deregister(_node(1))

    async def test_many_nodes_arrive_together(self) -> None:
        self._needs_register()
        nodes = [_node(number) for number in range(self.many)]
        async with self.make() as registry, self.make() as other:
            for node in nodes:
                await other.register(node)
            sets = registry.watch("greeter")
            await self._expect(sets, nodes)
            await closed(sets)

    # Names

    async def test_services_of_any_supported_name_are_found(self) -> None:
        self._needs_register()
        async with self.make() as registry, self.make() as other:
            for name in self.names:
                await other.register(_node(1, name))
            for name in self.names:
                sets = registry.watch(name)
                await self._expect(sets, [_node(1, name)], name)
                await closed(sets)

    async def test_services_lists_the_names_that_have_nodes_sorted(self) -> None:
        async with self.make() as registry:
            if self.no_register:
                assert await registry.services() == sorted({node.service for node in self.listed})
                return
            for name in self.names:
                await registry.register(_node(1, name))
            await registry.register(_node(1, "gone"))
            await registry.deregister(_node(1, "gone"))
            wanted = sorted(self.names)
            found = await registry.services()
            assert found == wanted, f"services() gave {found}, wanted {wanted}"
            if (known := getattr(registry, "known_services", None)) is not None:
                assert sorted(known()) == wanted, f"known_services() gave {known()}, wanted {wanted}"

    # Watchers

    async def test_two_watchers_see_the_same(self) -> None:
        self._needs_register()
        async with self.make() as registry:
            one, two = registry.watch("greeter"), registry.watch("greeter")
            await asyncio.gather(self._expect(one, []), self._expect(two, []))
            await registry.register(_node(1))
            await asyncio.gather(self._expect(one, [_node(1)]), self._expect(two, [_node(1)]))
            await closed(one)
            await registry.deregister(_node(1))
            await self._expect(two, [])
            await closed(two)

    async def test_a_slow_watcher_holds_nobody_up_and_then_sees_the_newest(self) -> None:
        self._needs_register()
        nodes = [_node(number) for number in range(10)]
        async with self.make() as registry:
            slow, quick = registry.watch("greeter"), registry.watch("greeter")
            await self._expect(slow, [])
            await self._expect(quick, [])
            for end, node in enumerate(nodes, 1):
                await registry.register(node)
                await self._expect(quick, nodes[:end])
            read = await self._expect(slow, nodes)
            assert read <= 3, f"the slow watcher was made to read {read} sets, most of them old"
            await closed(slow)
            await closed(quick)

    async def test_a_cancelled_watch_leaves_nothing_behind(self) -> None:
        before = asyncio.all_tasks()
        async with self.make() as registry:
            within = asyncio.all_tasks()
            begun = asyncio.Event()

            async def read() -> None:
                sets = registry.watch("greeter")
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
            await nothing_left_of(within)
            await self._first(registry)
        await nothing_left_of(before)

    async def test_nothing_is_left_running_after_it_is_left(self) -> None:
        before = asyncio.all_tasks()
        async with self.make() as registry:
            if not self.no_register:
                await registry.register(_node(1))
            await self._first(registry)
        await nothing_left_of(before)

    # Owners

    async def test_leaving_deregisters_what_was_registered_from_here(self) -> None:
        self._needs_register()
        async with self.make() as registry:
            sets = registry.watch("greeter")
            async with self.make() as other:
                await other.register(_node(1))
                await registry.register(_node(2))
                await self._expect(sets, [_node(1), _node(2)])
            await self._expect(sets, [_node(2)])
            await closed(sets)

    async def test_it_works_until_the_last_of_its_users_has_left(self) -> None:
        self._needs_register()
        registry = self.make()
        async with registry, self.make() as other:
            async with registry:
                await registry.register(_node(1))
            sets = other.watch("greeter")
            await self._expect(sets, [_node(1)])
            await registry.register(_node(2))
            await self._expect(sets, [_node(1), _node(2)])
            await closed(sets)

    async def test_who_comes_while_the_last_one_leaves_finds_it_open(self) -> None:
        registry = self.make()
        await registry.__aenter__()
        if not self.no_register:
            await registry.register(_node(1))
        leaving = asyncio.create_task(registry.__aexit__(None, None, None))
        await asyncio.sleep(0)  # it has begun to leave
        async with registry:
            await leaving
            wanted = self.listed if self.no_register else [_node(2)]
            if not self.no_register:
                await registry.register(_node(2))
            sets = registry.watch("greeter")
            await self._expect(sets, wanted)
            await closed(sets)

    async def test_the_node_of_an_owner_that_crashes_leaves(self) -> None:
        if self.no_crash:
            pytest.skip(self.no_crash)
        async with self.make() as registry:
            sets = registry.watch("greeter")
            async with self.owner(_node(1)) as kill:
                await self._expect(sets, [_node(1)])
                await kill()
                await self._expect(sets, [])
            await closed(sets)

    # Outages

    async def test_an_outage_is_told_and_never_empties_a_set(self) -> None:
        if self.no_outage:
            pytest.skip(self.no_outage)
        sets: list[NodeSet] = []
        async with (
            self.make() as registry,
            Directory(registry, backoff=lambda: Backoff(0.05, 0.2, floor=0.02)) as directory,
        ):
            await registry.register(_node(1))
            watch = directory.watch("greeter")
            await self._expect(watch, [_node(1)])

            async def collect() -> None:
                async for nodes in watch:
                    sets.append(nodes)
                    if len(nodes) == 2:
                        return

            collector = asyncio.create_task(collect())
            await self.break_source()
            until = asyncio.get_running_loop().time() + self.patience
            while directory.state("greeter").error is None:
                left = until - asyncio.get_running_loop().time()
                assert left > 0, f"the outage was not told within {self.patience} s"
                await asyncio.sleep(0.01)
            kept = directory.state("greeter").nodes
            await self.mend_source()
            await registry.register(_node(1))
            await registry.register(_node(2))
            done, _ = await asyncio.wait([collector], timeout=self.patience)
            collector.cancel()
            await asyncio.wait([collector])
            assert kept == NodeSet.of([self.seen(_node(1))]), f"the outage left {brief(kept)}"
            assert done, f"no news after the outage; {directory.describe_state('greeter')}"
            lost = [nodes for nodes in sets if self.seen(_node(1)) not in nodes.nodes]
            assert not lost, f"the outage made the node disappear for a while: {brief(lost[0])}"
            await closed(watch)

    # Words

    async def test_it_says_who_and_where_it_is(self) -> None:
        registry = self.make()
        text = registry.describe()
        assert registry.name in text, f"describe() lacks the registry's name: {text!r}"
        assert "\n" not in text, f"describe() goes into one line of a message: {text!r}"
        assert registry.advertised_host(), "advertised_host() is empty"
        assert registry.drain_delay >= 0, "drain_delay is seconds"
