"""The directory: shared watches, the last good set, and what it says about them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pytest

from pymicro.base.backoff import Backoff
from pymicro.base.errors import RegistryError
from pymicro.discovery.directory import Directory, ServiceState
from pymicro.nodes.node import EMPTY, Node, NodeSet
from pymicro.testing.waiting import expect, first, nothing_left_of

PATIENCE = 5.0
INHERITED: contextvars.ContextVar[str] = contextvars.ContextVar("INHERITED", default="")


def node(number: int, **changes: Any) -> Node:
    return Node(id=f"n{number}", address=f"127.0.0.1:{number}", service="greeter", **changes)


class Scripted:
    """A registry that yields and raises what the test puts into it."""

    name = "scripted"
    drain_delay = 0.0

    def __init__(self) -> None:
        self.queues: list[asyncio.Queue[NodeSet | BaseException | None]] = []
        self.contexts: list[str] = []
        self.open = 0
        self._watched = asyncio.Event()

    def describe(self) -> str:
        return "registry scripted"

    async def watched(self, times: int) -> None:
        """Wait for the watch of that number, counted from 1."""
        async with asyncio.timeout(PATIENCE):
            while len(self.queues) < times:
                self._watched.clear()
                await self._watched.wait()

    def put(self, item: NodeSet | BaseException | None) -> None:
        """For the newest watch: a set, an error, or None for its end."""
        self.queues[-1].put_nowait(item)

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        queue: asyncio.Queue[NodeSet | BaseException | None] = asyncio.Queue()
        self.queues.append(queue)
        self.contexts.append(INHERITED.get())
        self._watched.set()
        self.open += 1
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.open -= 1


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def opened(registry: Scripted, **options: Any) -> AsyncIterator[Directory]:
    options.setdefault("backoff", lambda: Backoff(0.01, 0.02))
    async with Directory(registry, **options) as directory:  # type: ignore[arg-type]
        yield directory


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nobody signals."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def until_failed(directory: Directory) -> None:
    await until(lambda: directory.state("greeter").error is not None)


# Sharing


async def test_one_watch_serves_all_and_the_late_get_the_set_at_once() -> None:
    registry = Scripted()
    async with opened(registry) as directory:
        one, two = directory.watch("greeter"), directory.watch("greeter")
        reading = asyncio.gather(first(one, within=PATIENCE), first(two, within=PATIENCE))
        await registry.watched(1)
        registry.put(NodeSet.of([node(1)]))
        assert await reading == [NodeSet.of([node(1)])] * 2
        late = directory.watch("greeter")
        assert await first(late, within=PATIENCE) == NodeSet.of([node(1)])
        assert len(registry.queues) == 1
        other = asyncio.ensure_future(anext(directory.watch("other")))
        await registry.watched(2)
        other.cancel()


async def test_a_watch_inherits_nothing_from_whoever_asked_first() -> None:
    registry = Scripted()
    async with opened(registry) as directory:
        INHERITED.set("a handler's deadline")
        reading = asyncio.ensure_future(anext(directory.watch("greeter")))
        await registry.watched(1)
        assert registry.contexts == [""]
        reading.cancel()


async def test_a_slow_reader_gets_the_newest_set_only() -> None:
    registry = Scripted()
    async with opened(registry) as directory:
        slow, quick = directory.watch("greeter"), directory.watch("greeter")
        reading = asyncio.gather(first(slow, within=PATIENCE), first(quick, within=PATIENCE))
        await registry.watched(1)
        registry.put(EMPTY)
        await reading
        for count in range(1, 20):
            registry.put(NodeSet.of(node(number) for number in range(count)))
            await expect(quick, [node(number) for number in range(count)], within=PATIENCE)
        assert len(await first(slow, within=PATIENCE)) == 19


async def test_a_confirmed_set_is_no_news_but_makes_the_age_young() -> None:
    registry, clock = Scripted(), Clock()
    async with opened(registry, clock=clock) as directory:
        sets = directory.watch("greeter")
        reading = asyncio.ensure_future(anext(sets))
        await registry.watched(1)
        registry.put(NodeSet.of([node(1)]))
        await reading
        clock.now += 3.5
        assert directory.state("greeter").age == 3.5
        more = asyncio.ensure_future(anext(sets))
        registry.put(NodeSet.of([node(1)]))
        await until(lambda: directory.state("greeter").age == 0)
        await asyncio.wait([more], timeout=0.05)
        assert not more.done()
        more.cancel()


async def test_a_watch_outlives_its_last_watcher_for_a_while_and_no_longer() -> None:
    registry = Scripted()
    async with opened(registry, linger=0.05) as directory:
        for _ in range(3):
            sets = directory.watch("greeter")
            reading = asyncio.ensure_future(anext(sets))
            await registry.watched(1)
            registry.put(NodeSet.of([node(1)]))
            await reading
            await sets.aclose()
        assert len(registry.queues) == 1
        await until(lambda: not registry.open)
        assert directory.state("greeter") == ServiceState()
        reading = asyncio.ensure_future(anext(directory.watch("greeter")))
        await registry.watched(2)
        reading.cancel()


async def test_a_watcher_that_comes_back_in_time_keeps_the_watch() -> None:
    registry = Scripted()
    async with opened(registry, linger=0.05) as directory:
        sets = directory.watch("greeter")
        reading = asyncio.ensure_future(anext(sets))
        await registry.watched(1)
        registry.put(EMPTY)
        await reading
        await sets.aclose()
        again = directory.watch("greeter")
        await first(again, within=PATIENCE)
        more = asyncio.ensure_future(anext(again))
        await asyncio.wait([more], timeout=0.15)  # longer than it would have lingered
        registry.put(NodeSet.of([node(1)]))
        assert await asyncio.wait_for(more, PATIENCE) == NodeSet.of([node(1)])
        assert len(registry.queues) == 1


async def test_an_old_watch_cannot_publish_after_a_new_one_started() -> None:
    class Stubborn(Scripted):
        """Yields once more when it is cancelled, late."""

        async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
            self.queues.append(asyncio.Queue())
            self._watched.set()
            if len(self.queues) > 1:
                yield EMPTY
                await asyncio.Event().wait()
            try:
                yield NodeSet.of([node(1)])
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await self.watched(2)
                yield NodeSet.of([node(1), node(2)])
                raise

    registry = Stubborn()
    async with opened(registry, linger=0.0) as directory:
        sets = directory.watch("greeter")
        await first(sets, within=PATIENCE)
        await sets.aclose()
        await until(lambda: directory.state("greeter") == ServiceState())
        again = directory.watch("greeter")
        assert await first(again, within=PATIENCE) == EMPTY
        more = asyncio.ensure_future(anext(again))
        await asyncio.wait([more], timeout=0.05)
        assert not more.done()
        assert directory.state("greeter").nodes == EMPTY
        more.cancel()


# Failures


async def test_a_failure_keeps_the_last_set_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pymicro.discovery")
    registry, clock = Scripted(), Clock()
    async with opened(registry, clock=clock) as directory:
        sets = directory.watch("greeter")
        reading = asyncio.ensure_future(anext(sets))
        await registry.watched(1)
        registry.put(NodeSet.of([node(1), node(2)]))
        await reading
        clock.now += 61
        more = asyncio.ensure_future(anext(sets))
        registry.put(RegistryError("the server is away"))
        for times in (2, 3, 4):
            await registry.watched(times)
            if times < 4:
                registry.put(RegistryError("the server is away"))
        assert not more.done()
        state = directory.state("greeter")
        assert state == ServiceState(NodeSet.of([node(1), node(2)]), 61.0, "the server is away", 0.0)
        assert directory.describe_state("greeter") == (
            "registry scripted listed 2 nodes 61 s ago and has failed since with: the server is away"
        )
        registry.put(NodeSet.of([node(1)]))
        assert await more == NodeSet.of([node(1)])
        assert directory.state("greeter").error is None
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [
        ("INFO", "greeter: 2 nodes (+127.0.0.1:1 +127.0.0.1:2)"),
        ("WARNING", "greeter: the server is away; keeping 2 nodes of 61 s ago, trying again"),
        ("INFO", "greeter: the registry works again"),
        ("INFO", "greeter: 1 node (-127.0.0.1:2)"),
    ]


async def test_a_failure_before_the_first_set_can_be_seen() -> None:
    registry = Scripted()
    async with opened(registry) as directory:
        assert directory.describe_state("greeter") == "registry scripted has not answered yet"
        reading = asyncio.ensure_future(anext(directory.watch("greeter")))
        await registry.watched(1)
        registry.put(RegistryError("no rights"))
        await until_failed(directory)
        state = directory.state("greeter")
        assert state == ServiceState(None, None, "no rights", state.failing)
        assert state.failing is not None
        assert directory.describe_state("greeter").endswith("failed with: no rights")
        await registry.watched(2)
        registry.put(EMPTY)
        assert await reading == EMPTY
        assert directory.describe_state("greeter") == "registry scripted listed 0 nodes 0.0 s ago"


async def test_a_registry_that_says_none_empties_the_set() -> None:
    registry = Scripted()
    async with opened(registry) as directory:
        sets = directory.watch("greeter")
        reading = asyncio.ensure_future(anext(sets))
        await registry.watched(1)
        registry.put(NodeSet.of([node(1)]))
        await reading
        registry.put(EMPTY)
        assert await first(sets, within=PATIENCE) == EMPTY


async def test_a_registrys_bug_is_logged_with_its_traceback_and_counts_as_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = Scripted()
    async with opened(registry) as directory:
        reading = asyncio.ensure_future(anext(directory.watch("greeter")))
        other = asyncio.ensure_future(anext(directory.watch("other")))
        await registry.watched(2)
        registry.queues[0].put_nowait(ZeroDivisionError("by nought"))
        await until_failed(directory)
        assert directory.state("greeter").error == "ZeroDivisionError: by nought"
        await registry.watched(3)
        registry.put(EMPTY)
        assert await reading == EMPTY
        # The other service's watch is none the worse for it.
        registry.queues[1].put_nowait(EMPTY)
        assert await other == EMPTY
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "ZeroDivisionError" in str(record.exc_info)


@pytest.mark.parametrize(
    ("end", "error"),
    [(None, "registry scripted ended"), (asyncio.CancelledError(), "cancelled from inside")],
    ids=["ends", "is cancelled from inside"],
)
async def test_a_watch_that_just_ends_is_begun_again(end: BaseException | None, error: str) -> None:
    registry = Scripted()
    async with opened(registry) as directory:
        sets = directory.watch("greeter")
        reading = asyncio.ensure_future(anext(sets))
        await registry.watched(1)
        registry.put(NodeSet.of([node(1)]))
        await reading
        registry.put(end)
        await registry.watched(2)
        assert error in (directory.state("greeter").error or "")
        assert directory.state("greeter").nodes == NodeSet.of([node(1)])
        registry.put(EMPTY)
        assert await first(sets, within=PATIENCE) == EMPTY


async def test_pauses_grow_although_each_watch_begins_well() -> None:
    pauses: list[float] = []

    class Noted(Backoff):
        def next(self) -> float:
            pauses.append(self._ceiling)
            return super().next()

    registry, clock = Scripted(), Clock()
    async with opened(registry, clock=clock, backoff=lambda: Noted(0.001, 0.008)) as directory:
        reading = asyncio.ensure_future(expect(directory.watch("greeter"), [node(1)], within=PATIENCE))
        for times in range(1, 5):
            await registry.watched(times)
            registry.put(EMPTY)
            registry.put(RegistryError("away"))
        await registry.watched(5)
        assert pauses == [0.001, 0.002, 0.004, 0.008]
        clock.now += 60  # a watch that lived for a minute was well
        registry.put(RegistryError("away"))
        await registry.watched(6)
        assert pauses[-1] == 0.001
        registry.put(NodeSet.of([node(1)]))
        await reading


# Words


async def test_a_change_is_one_line_of_bounded_length(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pymicro.discovery")
    registry = Scripted()
    async with opened(registry) as directory:
        reading = asyncio.ensure_future(
            expect(directory.watch("greeter\n"), [node(1, version="2")], within=PATIENCE)
        )
        await registry.watched(1)
        registry.put(NodeSet.of(node(number) for number in range(1, 1001)))
        registry.put(NodeSet.of([node(1), Node(id="x", address="a\nb:1")]))
        registry.put(NodeSet.of([node(1)]))
        registry.put(NodeSet.of([node(1, version="2")]))
        await reading
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4
    assert all("\n" not in line and len(line) < 300 for line in lines), lines
    assert lines[0].endswith("and 992 more)")
    assert r"'a\nb:1'" in lines[1]
    assert lines[3] == r"'greeter\n': 1 node (~127.0.0.1:1)"


# Closing


async def test_closing_ends_readers_and_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    registry = Scripted()
    async with opened(registry) as directory:
        sets, unread = directory.watch("greeter"), directory.watch("greeter")
        reading = asyncio.ensure_future(anext(sets))
        await registry.watched(1)
        registry.put(EMPTY)
        await reading
        await first(unread, within=PATIENCE)
        more = asyncio.ensure_future(anext(sets))
        lingering = directory.watch("lingering")
        reading = asyncio.ensure_future(anext(lingering))
        await registry.watched(2)
        registry.put(EMPTY)
        await reading
        await lingering.aclose()
    with pytest.raises(StopAsyncIteration):
        await more
    with pytest.raises(StopAsyncIteration):
        await anext(unread)
    assert registry.open == 0
    await nothing_left_of(before)


async def test_a_directory_that_is_not_open_says_so() -> None:
    directory = Directory(Scripted())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="not open"):
        await anext(directory.watch("greeter"))
    async with directory:
        pass
    with pytest.raises(RuntimeError, match="not open"):
        await anext(directory.watch("greeter"))


async def test_a_cancelled_user_still_gets_everything_closed() -> None:
    registry = Scripted()
    begun = asyncio.Event()

    async def user() -> None:
        async with opened(registry) as directory:
            async for _ in directory.watch("greeter"):
                begun.set()

    task = asyncio.create_task(user())
    await registry.watched(1)
    registry.put(EMPTY)
    await asyncio.wait_for(begun.wait(), PATIENCE)
    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE)
    assert task.cancelled()
    assert registry.open == 0


@pytest.mark.parametrize("shared", [True, False])
async def test_what_changed_here_and_there_is_told_exactly(
    shared: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the nodes that stay are the same objects or only equal ones."""
    caplog.set_level(logging.INFO, "pymicro.discovery")
    nodes = [node(number) for number in range(100, 200)]
    later = [one if shared else node(number) for number, one in enumerate(nodes, 100)]
    later[3] = node(103, version="2")
    later[50] = node(300)
    later += [node(99), node(200)]
    del later[97], later[20]
    registry = Scripted()
    async with opened(registry) as directory:
        reading = asyncio.ensure_future(expect(directory.watch("greeter"), later, within=PATIENCE))
        await registry.watched(1)
        registry.put(NodeSet.of(nodes))
        registry.put(NodeSet.of(later))
        await reading
    changed = caplog.records[-1].getMessage().partition("(")[2].rstrip(")").split()
    signs = {"+99", "+200", "+300", "-120", "-150", "-197", "~103"}
    assert {one.replace("127.0.0.1:", "") for one in changed} == signs
