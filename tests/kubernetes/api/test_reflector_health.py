"""What counts as a failure, who is told of it, and how long is waited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import pytest

from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.health import Health
from pymicro.kubernetes.api.publication import Publication
from pymicro.kubernetes.api.timing import Timing

REFUSED = KubeError("no connection")
EXPIRED = KubeError("too old", status=410)
CUT = KubeError("cut", kind="cut")
IDLE = KubeError("silent", kind="idle")


class Course:
    """A Health whose clock is moved by hand and whose pauses are their ceilings."""

    def __init__(self) -> None:
        self.now = 100.0
        self.health = Health(Timing(), lambda: self.now, lambda low, high: high)

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


def publication(current: Mapping[str, int], gather: float = 0.01) -> Publication[int]:
    return Publication("pods", lambda: current, gather)


async def next_of(seen: AsyncGenerator[Mapping[str, int], None]) -> dict[str, int]:
    return dict(await asyncio.wait_for(anext(seen), 5))


async def waits(seen: asyncio.Task[object]) -> bool:
    await asyncio.wait([seen], timeout=0.05)
    return not seen.done()


async def test_whoever_follows_when_it_begins_to_fail_is_told_and_sees_when_it_works_again() -> None:
    news = publication({"a": 1})
    news.now()
    async with aclosing(news.follow()) as seen:
        assert await next_of(seen) == {"a": 1}
        news.fail(REFUSED)
        with pytest.raises(KubeError, match="no connection") as caught:
            await anext(seen)
    assert caught.value is not REFUSED, "a shared error would gather everybody's traceback"
    async with aclosing(news.follow()) as seen:
        waiting = asyncio.ensure_future(next_of(seen))
        # What is known may be old: whoever comes now gets neither that nor the old error.
        assert await waits(waiting)
        news.now()
        assert await waiting == {"a": 1}


async def test_whoever_came_while_it_failed_is_told_of_the_next_failure() -> None:
    news = publication({"a": 1})
    news.fail(REFUSED)
    async with aclosing(news.follow()) as seen:
        waiting = asyncio.ensure_future(next_of(seen))
        assert await waits(waiting)
        news.fail(KubeError("still not"))
        with pytest.raises(KubeError, match="still not"):
            await waiting


async def test_a_failure_that_has_passed_is_no_news() -> None:
    news = publication({"a": 1})
    news.now()
    async with aclosing(news.follow()) as seen:
        await next_of(seen)
        news.fail(REFUSED)
        news.now()
        assert await next_of(seen) == {"a": 1}
        waiting = asyncio.ensure_future(next_of(seen))
        assert await waits(waiting)
        news.close()
        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_what_seemed_to_work_and_does_not_is_not_published() -> None:
    news = publication({"a": 1})
    news.fail(REFUSED)
    news.soon()
    news.postpone()
    async with aclosing(news.follow()) as seen:
        waiting = asyncio.ensure_future(next_of(seen))
        assert await waits(waiting)
        assert news.failure is REFUSED
        news.soon()
        assert await waiting == {"a": 1}
        assert news.failure is None
        # While it works nothing is held back.
        news.soon()
        news.postpone()
        assert await next_of(seen) == {"a": 1}


async def test_a_lone_change_is_published_at_once_and_the_next_ones_together() -> None:
    known = {"a": 0}
    news = publication(known, gather=0.05)
    loop = asyncio.get_running_loop()

    async def change() -> None:
        while True:
            known["a"] += 1
            news.soon()
            await asyncio.sleep(0.002)

    changing = asyncio.create_task(change())
    async with aclosing(news.follow()) as seen:
        assert (await next_of(seen))["a"] == 1
        begun = loop.time()
        editions = 0
        while loop.time() < begun + 0.25:
            await next_of(seen)
            editions += 1
    changing.cancel()
    # Put off by no later change, and twenty a second at most.
    assert 1 <= editions <= 5


async def test_what_is_only_confirmed_waits_until_a_change_comes() -> None:
    news = publication({"a": 1}, gather=60.0)
    async with aclosing(news.follow()) as seen:
        news.later()
        waiting = asyncio.ensure_future(next_of(seen))
        assert await waits(waiting)
        news.soon()
        assert await waiting == {"a": 1}
        news.soon()
        waiting = asyncio.ensure_future(next_of(seen))
        assert await waits(waiting)
        news.close()
        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_a_view_cannot_be_written_to() -> None:
    news = publication({"a": 1})
    news.now()
    async with aclosing(news.follow()) as seen:
        view = await anext(seen)
        with pytest.raises(TypeError):
            view["a"] = 2  # type: ignore[index]
