"""`Latest`: the newest value for any number of readers."""

from __future__ import annotations

import asyncio

import pytest

from pymicro.base.latest import Latest


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
