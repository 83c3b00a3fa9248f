"""`Latest`: the newest value, or why there is none; `Gathering`: changes published together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from pymicro.base.errors import RegistryError
from pymicro.base.latest import Gathering, Latest


async def test_a_reader_waits_for_the_first_value_and_gets_each_newer_one() -> None:
    latest: Latest[int] = Latest()
    values = latest.follow()
    coming = asyncio.ensure_future(anext(values))
    await asyncio.sleep(0)
    assert not coming.done()
    latest.set(1)
    assert await coming == 1
    latest.set(2)
    assert await anext(values) == 2


async def test_a_late_reader_gets_the_value_in_force() -> None:
    latest: Latest[int] = Latest()
    latest.set(1)
    latest.set(2)
    assert await anext(latest.follow()) == 2


async def test_a_slow_reader_skips_to_the_newest() -> None:
    latest: Latest[int] = Latest()
    values = latest.follow()
    latest.set(0)
    assert await anext(values) == 0
    for value in range(1, 100):
        latest.set(value)
    assert await anext(values) == 99


async def test_an_equal_value_counts_as_news() -> None:
    latest: Latest[int] = Latest()
    values = latest.follow()
    latest.set(1)
    assert await anext(values) == 1
    latest.set(1)
    assert await anext(values) == 1


async def test_closing_ends_readers_after_the_newest_value() -> None:
    latest: Latest[int] = Latest()
    waiting = asyncio.ensure_future(anext(latest.follow()))
    await asyncio.sleep(0)
    behind = latest.follow()
    latest.set(1)
    assert await waiting == 1
    latest.close()
    assert await anext(behind) == 1
    with pytest.raises(StopAsyncIteration):
        await anext(behind)


async def test_a_cancelled_reader_disturbs_nobody() -> None:
    latest: Latest[int] = Latest()
    one, two = (asyncio.ensure_future(anext(latest.follow())) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.wait([one])
    latest.set(1)
    assert await two == 1


# Failures

REFUSED = RegistryError("no connection")


async def next_of(seen: AsyncGenerator[int, None]) -> int:
    return await asyncio.wait_for(anext(seen), 5)


async def waits(seen: asyncio.Task[int]) -> bool:
    await asyncio.wait([seen], timeout=0.05)
    return not seen.done()


async def test_whoever_follows_when_it_begins_to_fail_is_told_and_sees_when_it_works_again() -> None:
    latest: Latest[int] = Latest()
    latest.set(1)
    async with aclosing(latest.follow()) as seen:
        assert await next_of(seen) == 1
        latest.fail(REFUSED)
        with pytest.raises(RegistryError, match="no connection") as caught:
            await anext(seen)
    assert caught.value is not REFUSED, "a shared error would gather everybody's traceback"
    async with aclosing(latest.follow()) as seen:
        waiting = asyncio.ensure_future(next_of(seen))
        # What is known may be old: whoever comes now gets neither that nor the old error.
        assert await waits(waiting)
        latest.set(2)
        assert await waiting == 2


async def test_whoever_came_while_it_failed_is_told_of_the_next_failure() -> None:
    latest: Latest[int] = Latest()
    latest.fail(REFUSED)
    async with aclosing(latest.follow()) as seen:
        waiting = asyncio.ensure_future(next_of(seen))
        assert await waits(waiting)
        latest.fail(RegistryError("still not"))
        with pytest.raises(RegistryError, match="still not"):
            await waiting


async def test_a_failure_that_has_passed_is_no_news() -> None:
    latest: Latest[int] = Latest()
    latest.set(1)
    async with aclosing(latest.follow()) as seen:
        await next_of(seen)
        latest.fail(REFUSED)
        latest.set(2)
        assert await next_of(seen) == 2
        waiting = asyncio.ensure_future(next_of(seen))
        assert await waits(waiting)
        latest.close()
        with pytest.raises(StopAsyncIteration):
            await waiting


async def test_a_failure_beside_a_value_that_stands_is_told_after_it_and_to_nobody_who_comes_later() -> None:
    latest: Latest[int] = Latest()
    latest.set(1)
    async with aclosing(latest.follow()) as seen:
        assert await next_of(seen) == 1
        latest.set(2)
        latest.fail(REFUSED, stands=True)
        assert await next_of(seen) == 2
        # Not even the next value makes it pass unseen.
        latest.set(3)
        assert await next_of(seen) == 3
        with pytest.raises(RegistryError, match="no connection"):
            await anext(seen)
    assert await next_of(latest.follow()) == 3


async def test_an_error_that_is_the_end_is_told_to_everybody_now_and_later() -> None:
    latest: Latest[int] = Latest()
    latest.set(1)
    async with aclosing(latest.follow()) as seen:
        assert await next_of(seen) == 1
        latest.set(2)
        latest.close(REFUSED)
        with pytest.raises(RegistryError, match="no connection"):
            await anext(seen)
    latest.set(3)
    with pytest.raises(RegistryError, match="no connection"):
        await anext(latest.follow())


# Gathering


def counted(pause: float) -> tuple[Gathering, Latest[int]]:
    """Publishes how often it has published."""
    latest: Latest[int] = Latest()
    count = 0

    def publish() -> None:
        nonlocal count
        count += 1
        latest.set(count)

    return Gathering(publish, pause), latest


async def test_a_lone_change_is_published_at_once_and_the_next_ones_together() -> None:
    gathering, latest = counted(0.05)
    loop = asyncio.get_running_loop()

    async def change() -> None:
        while True:
            gathering.soon()
            await asyncio.sleep(0.002)

    changing = asyncio.create_task(change())
    async with aclosing(latest.follow()) as seen:
        assert await next_of(seen) == 1
        begun = loop.time()
        last = 1
        while loop.time() < begun + 0.25:
            last = await next_of(seen)
    changing.cancel()
    gathering.cancel()
    # Put off by no later change, and twenty a second at most.
    assert 2 <= last <= 6


async def test_what_is_only_confirmed_waits_until_a_change_comes() -> None:
    gathering, latest = counted(60.0)
    async with aclosing(latest.follow()) as seen:
        gathering.later()
        waiting = asyncio.ensure_future(next_of(seen))
        assert await waits(waiting)
        gathering.soon()
        assert await waiting == 1
        gathering.soon()
        waiting = asyncio.ensure_future(next_of(seen))
        assert await waits(waiting)
        gathering.now()
        assert await waiting == 2
    gathering.cancel()


async def test_what_is_cancelled_is_not_published() -> None:
    gathering, latest = counted(0.0)
    async with aclosing(latest.follow()) as seen:
        gathering.soon()
        gathering.cancel()
        waiting = asyncio.ensure_future(next_of(seen))
        assert await waits(waiting)
        gathering.soon()
        assert await waiting == 1
