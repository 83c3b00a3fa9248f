"""From one watch to another: which mapping counts when, step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from pymicro.base.latest import Latest
from pymicro.base.tasks import Tasks
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.query import ObjectQuery
from pymicro.kubernetes.api.reflectors import Reflectors
from pymicro.kubernetes.api.resource import PODS
from pymicro.kubernetes.api.split import WHOLE, Split
from pymicro.kubernetes.cluster.changeover import Changeover
from pymicro.kubernetes.cluster.wanted import Source
from pymicro.nodes.node import Node

Objects = Mapping[str, tuple[Node, ...]]


def nothing(_: Any) -> None: ...


def source(name: str) -> Source:
    return Source(ObjectQuery(PODS, "shop", name), Split.whole(nothing), WHOLE)


class Watch:
    """A reflector as far as a changeover knows one; the test says what it shows."""

    def __init__(self) -> None:
        self.version = ""
        self.users = 0
        self.latest: Latest[Objects] = Latest()

    def show(self, version: str, *names: str) -> None:
        self.version = version
        self.latest.set({name: (Node(name, "10.0.0.1:80"),) for name in names})

    def fail(self) -> None:
        self.latest.fail(KubeError("it fails"))

    def follow(self, part: str) -> AsyncGenerator[Objects, None]:
        assert part == WHOLE
        return self.latest.follow()


class Scene:
    """A changeover at work.

    Attributes:
        taken: What was taken, a set of names each; failures are their texts.
    """

    def __init__(self) -> None:
        self.watches: dict[str, Watch] = {}
        self.size = 0
        self.choice: Latest[Source] = Latest()
        self.taken: list[set[str] | str] = []
        self.told: list[str] = []

    def __getitem__(self, name: str) -> Watch:
        return self.watches.setdefault(name, Watch())

    async def choose(self, name: str) -> None:
        self.choice.set(source(name))
        await self.settle()

    async def settle(self) -> None:
        """Let everybody have a turn until nothing moves: a dozen are more than it takes."""
        for _ in range(12):
            await asyncio.sleep(0)

    # As a chooser

    def sources(self) -> AsyncGenerator[Source, None]:
        return self.choice.follow()

    def failed(self, source: Source, error: KubeError) -> None:
        self.told.append(source.query.labels)

    # As reflectors

    @asynccontextmanager
    async def use(self, query: ObjectQuery, split: object, *, list_limit: float) -> AsyncIterator[Watch]:
        watch = self[query.labels]
        watch.users += 1
        try:
            yield watch
        finally:
            watch.users -= 1

    @property
    def used(self) -> set[str]:
        return {name for name, watch in self.watches.items() if watch.users}


@asynccontextmanager
async def acting() -> AsyncIterator[Scene]:
    scene = Scene()
    changeover = Changeover(
        scene,
        cast(Reflectors, scene),
        lambda objects, version: scene.taken.append(set(objects)),
        lambda error: scene.taken.append(str(error)),
    )
    async with Tasks("changeover") as tasks:
        tasks.start(changeover.run(), "run")
        yield scene


async def test_the_first_watch_counts_as_soon_as_it_shows_anything() -> None:
    async with acting() as scene:
        await scene.choose("own")
        assert scene.taken == []
        scene["own"].show("7", "a")
        await scene.settle()
        assert scene.taken == [{"a"}]
        assert scene.size == 1


async def test_another_watch_takes_over_when_it_has_listed_and_the_first_one_ends() -> None:
    async with acting() as scene:
        await scene.choose("own")
        scene["own"].show("7", "a")
        await scene.choose("shared")
        assert scene.used == {"own", "shared"}
        scene["own"].show("8", "a", "b")
        await scene.settle()
        scene["shared"].show("8", "a", "b")
        await scene.settle()
        assert scene.used == {"shared"}
        scene["shared"].show("9", "b")
        await scene.settle()
        assert scene.taken == [{"a"}, {"a", "b"}, {"a", "b"}, {"b"}]


async def test_one_that_is_behind_waits_until_it_has_caught_up() -> None:
    async with acting() as scene:
        await scene.choose("own")
        scene["own"].show("7", "a", "b")
        await scene.choose("shared")
        # "a" is gone since, and the newcomer has not heard of it.
        scene["own"].show("9", "b")
        scene["shared"].show("8", "a", "b")
        await scene.settle()
        assert scene.taken[-1] == {"b"}
        assert scene.used == {"own", "shared"}
        # Not even what the old one knows and has not shown yet may be undone.
        scene["own"].version = "12"
        scene["shared"].show("11", "b", "c")
        await scene.settle()
        assert scene.used == {"own", "shared"}
        scene["shared"].show("12", "c")
        await scene.settle()
        assert scene.used == {"shared"}
        assert scene.taken == [{"a", "b"}, {"b"}, {"c"}]


async def test_one_that_is_about_to_list_anew_does_not_take_over() -> None:
    async with acting() as scene:
        await scene.choose("own")
        scene["own"].show("7", "a")
        await scene.choose("shared")
        scene["shared"].show("", "old")
        await scene.settle()
        assert scene.used == {"own", "shared"}
        # Nor does what it shows count against an old one that lists anew.
        scene["own"].version = ""
        scene["shared"].show("6", "old")
        await scene.settle()
        assert scene.taken == [{"a"}]
        scene["shared"].show("8", "b")
        await scene.settle()
        assert scene.taken == [{"a"}, {"b"}]


async def test_versions_that_are_no_numbers_hold_nobody_up() -> None:
    async with acting() as scene:
        await scene.choose("own")
        scene["own"].show("seven", "a")
        await scene.choose("shared")
        scene["shared"].show("eight", "b")
        await scene.settle()
        assert scene.taken == [{"a"}, {"b"}]


async def test_a_newcomer_that_fails_disturbs_nobody_and_its_chooser_hears_of_it() -> None:
    async with acting() as scene:
        await scene.choose("own")
        scene["own"].show("7", "a")
        await scene.choose("shared")
        scene["shared"].fail()
        await scene.settle()
        scene["own"].show("8", "b")
        await scene.settle()
        assert scene.taken == [{"a"}, {"b"}]
        assert scene.told == ["shared"]


async def test_a_failure_is_told_if_nothing_else_is_there_yet() -> None:
    async with acting() as scene:
        await scene.choose("shared")
        scene["shared"].fail()
        await scene.settle()
        assert scene.taken == ["it fails"]
        scene["shared"].show("7", "a")
        await scene.settle()
        assert scene.taken == ["it fails", {"a"}]
        scene["shared"].fail()
        await scene.settle()
        assert scene.taken[2:] == ["it fails"]


async def test_one_in_use_that_fails_is_replaced_by_one_that_works() -> None:
    async with acting() as scene:
        await scene.choose("shared")
        scene["shared"].show("7", "a")
        await scene.settle()
        scene["shared"].fail()
        await scene.choose("own")
        scene["own"].show("9", "b")
        await scene.settle()
        assert scene.taken == [{"a"}, "it fails", {"b"}]
        assert scene.used == {"own"}


async def test_a_choice_taken_back_ends_the_newcomer_alone() -> None:
    async with acting() as scene:
        await scene.choose("own")
        scene["own"].show("7", "a")
        await scene.choose("shared")
        await scene.choose("own")
        assert scene.used == {"own"}
        scene["shared"].show("9", "b")
        await scene.choose("wider")
        await scene.choose("widest")
        assert scene.used == {"own", "widest"}
        scene["widest"].show("9", "c")
        await scene.settle()
        assert scene.taken == [{"a"}, {"c"}]
        assert scene.used == {"widest"}


async def test_who_cannot_choose_says_why() -> None:
    async with acting() as scene:
        await scene.settle()
        scene.choice.fail(KubeError("the server is away"))
        await scene.settle()
        await scene.choose("own")
        scene["own"].show("7", "a")
        await scene.settle()
        assert scene.taken == ["the server is away", {"a"}]
