"""What counts as a failure, who is told of it, and how long is waited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import pytest

from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.health import ReflectorHealth
from pymicro.kubernetes.api.reflector import ObjectQuery, Reflector
from pymicro.kubernetes.api.resource import PODS
from pymicro.kubernetes.api.table import Table
from pymicro.kubernetes.api.timing import ReflectorTiming

REFUSED = KubeError("no connection")
EXPIRED = KubeError("too old", status=410)
CUT = KubeError("cut", kind="cut")
IDLE = KubeError("silent", kind="idle")


class Course:
    """A `ReflectorHealth` whose clock is moved by hand and whose pauses are their ceilings."""

    def __init__(self) -> None:
        self.now = 100.0
        self.health = ReflectorHealth(ReflectorTiming(), lambda: self.now, lambda low, high: high)

    def pause(self, error: KubeError = REFUSED) -> float:
        return self.health.trouble(error)[0]

    def told(self, error: KubeError = REFUSED) -> bool:
        return self.health.trouble(error)[1]

    def watch(self, seconds: float = 0.0, *, event: bool = False) -> None:
        self.health.opened()
        if event:
            self.health.event()
        self.now += seconds


@pytest.fixture
def course() -> Course:
    return Course()


# How long


def test_pauses_grow_to_half_a_minute(course: Course) -> None:
    assert [course.pause() for _ in range(8)] == pytest.approx([0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0])


def test_two_minutes_without_trouble_begin_the_pauses_anew_and_less_does_not(course: Course) -> None:
    for _ in range(4):
        course.pause()
    course.watch(119.0, event=True)
    assert course.pause(CUT) == pytest.approx(12.8)
    course.watch(60.0, event=True)
    course.health.ended()
    course.watch(60.0, event=True)
    assert course.pause(CUT) == pytest.approx(0.8)
    # The time before the last trouble does not count a second time.
    assert course.pause() == pytest.approx(1.6)


def test_retry_after_is_waited_for_with_jitter_on_top_and_within_reason(course: Course) -> None:
    assert course.pause(KubeError("later", status=429, retry_after=5.0)) == pytest.approx(5.8)
    assert course.pause(KubeError("later", status=429, retry_after=86400.0)) == pytest.approx(121.6)


def test_a_watch_that_ends_as_agreed_is_followed_by_another_at_once(course: Course) -> None:
    course.watch(300.0)
    assert course.health.ended() == 0.0
    assert course.health.restarts == 0


def test_a_watch_that_ends_soon_but_brought_something_waits_out_its_second(course: Course) -> None:
    course.watch(0.25, event=True)
    assert course.health.ended() == pytest.approx(0.75)
    assert dict(course.health.errors) == {}


def test_a_watch_that_ends_soon_and_brought_nothing_is_trouble(course: Course) -> None:
    course.watch(0.99)
    assert course.health.ended() is None
    course.pause(KubeError("short", kind="short"))
    assert (course.health.restarts, dict(course.health.errors)) == (1, {"short": 1})


def test_a_silent_watch_is_replaced_at_once_and_does_not_lengthen_pauses(course: Course) -> None:
    for _ in range(5):
        course.watch(70.0)
        assert course.health.trouble(IDLE) == (0.0, False)
    assert course.pause() == pytest.approx(0.8)
    assert course.health.restarts == 5


def test_silence_makes_doubtful_only_if_it_was_never_broken(course: Course) -> None:
    course.watch(70.0, event=True)
    course.pause(IDLE)
    assert not course.health.doubtful
    course.health.opened(listed=True)
    course.pause(IDLE)
    assert not course.health.doubtful
    course.watch(70.0)
    course.pause(IDLE)
    assert course.health.doubtful


# Who is told


def test_what_never_began_is_told(course: Course) -> None:
    assert course.told()
    course.watch(300.0, event=True)
    course.health.ended()
    assert course.told()


def test_a_watch_that_breaks_once_is_not_told_and_twice_in_a_row_is(course: Course) -> None:
    course.health.listed()
    course.watch(0.1)
    assert not course.told(CUT)
    course.watch(0.1)
    assert course.told(CUT)
    course.watch(0.1, event=True)
    assert not course.told(CUT)


def test_a_watch_that_held_for_a_while_may_break_again_and_again(course: Course) -> None:
    for _ in range(5):
        course.watch(30.0)
        assert not course.told(CUT)


def test_one_expired_version_is_not_told_and_a_second_one_is(course: Course) -> None:
    assert not course.told(EXPIRED)
    assert course.told(EXPIRED)
    course.watch(event=True)
    course.health.ended()
    assert not course.told(EXPIRED)
    assert course.health.expired == 1
    course.watch(event=True)
    course.health.ended()
    assert not course.told(KubeError("back", kind="backwards"))


# What followers see


def reflector() -> Reflector[str]:
    """One that has listed one object, and asks nobody."""
    client = KubeClient(lambda: find_cluster(["http://127.0.0.1:1"]))
    timing = ReflectorTiming(gather=0.01)
    reflector: Reflector[str] = Reflector(client, ObjectQuery(PODS, "default"), str, timing=timing)
    table: Table[str] = Table(lambda found: "here", "pods")
    table.put({"metadata": {"uid": "a"}})
    reflector._synced(table, "1")
    return reflector


async def next_of(seen: AsyncGenerator[Mapping[str, str], None]) -> dict[str, str]:
    return dict(await asyncio.wait_for(anext(seen), 5))


async def test_what_seemed_to_work_and_does_not_is_not_published() -> None:
    news = reflector()
    news._tell(REFUSED)
    async with aclosing(news.follow()) as seen:
        waiting = asyncio.ensure_future(next_of(seen))
        news._health.opened()
        news._gathering.later()
        news._trouble(IDLE)
        await asyncio.wait([waiting], timeout=0.05)
        assert not waiting.done()
        assert news.state.failure is REFUSED
        news._gathering.soon()
        assert await waiting == {"a": "here"}
        assert news.state.failure is None
        # While it works nothing is held back.
        news._health.opened()
        news._gathering.later()
        news._trouble(IDLE)
        assert await next_of(seen) == {"a": "here"}


async def test_a_view_cannot_be_written_to() -> None:
    async with aclosing(reflector().follow()) as seen:
        view = await anext(seen)
        with pytest.raises(TypeError):
            view["a"] = "there"  # type: ignore[index]
