"""One running thing for all who use it, from the first one's coming until the last one has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from pymicro.base.sharing import Sharing

variable = ContextVar("variable", default="none")


class Worker:
    """Works until it is cancelled, or told to end."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.ended = asyncio.Event()
        self.context = ""

    async def work(self) -> None:
        self.context = variable.get()
        try:
            await self.end.wait()
        finally:
            self.ended.set()


def make() -> tuple[Worker, Coroutine[Any, Any, None]]:
    worker = Worker()
    return worker, worker.work()


def sharing(linger: Callable[[Worker], float] | None = None) -> Sharing[str, Worker]:
    return Sharing("workers", linger)


async def test_who_asks_for_the_same_key_shares_one() -> None:
    async with (
        sharing() as workers,
        workers.use("a", "work", make) as one,
        workers.use("a", "work", make) as other,
        workers.use("b", "work", make) as another,
    ):
        assert one is other
        assert one is not another
        assert workers.running == {"a": one, "b": another}
        assert workers.get("a") is one
        assert workers.get("c") is None


async def test_the_last_to_leave_waits_for_the_end_and_the_next_to_come_starts_anew() -> None:
    async with sharing() as workers:
        async with workers.use("a", "work", make) as first:
            async with workers.use("a", "work", make):
                await asyncio.sleep(0)
            assert not first.ended.is_set()
        assert first.ended.is_set()
        assert workers.running == {}
        async with workers.use("a", "work", make) as second:
            assert second is not first


async def test_one_that_lingers_is_found_by_who_comes_back_and_ends_later() -> None:
    async with sharing(lambda _: 0.02) as workers:
        async with workers.use("a", "work", make) as first:
            await asyncio.sleep(0)
        assert workers.get("a") is first
        async with workers.use("a", "work", make) as second:
            assert second is first
            # Who uses it is not left by it, although it was about to end.
            await asyncio.wait([asyncio.create_task(first.ended.wait())], timeout=0.06)
            assert not first.ended.is_set()
        await asyncio.wait_for(first.ended.wait(), 5)
        assert workers.get("a") is None


async def test_how_long_one_lingers_is_asked_when_its_last_user_goes() -> None:
    lingers = {"now": 60.0}
    async with sharing(lambda _: lingers["now"]) as workers:
        async with workers.use("a", "work", make) as worker:
            await asyncio.sleep(0)
        assert workers.get("a") is worker
        lingers["now"] = 0.0
        async with workers.use("a", "work", make):
            pass
        # It is told to end, and nobody waits for that.
        assert workers.get("a") is None
        assert not worker.ended.is_set()
        await asyncio.wait_for(worker.ended.wait(), 5)


async def test_one_that_has_ended_by_itself_is_replaced_and_does_not_linger() -> None:
    async with sharing(lambda _: 60.0) as workers:
        async with workers.use("a", "work", make) as first:
            await asyncio.sleep(0)
            first.end.set()
            await first.ended.wait()
            await asyncio.sleep(0)
            async with workers.use("a", "work", make) as second:
                assert second is not first
                assert workers.get("a") is second
        assert workers.get("a") is second, "the first one's user has no say in the second one"


async def test_leaving_ends_all_of_them_and_it_can_be_entered_again() -> None:
    workers = sharing(lambda _: 60.0)
    async with workers:
        async with workers.use("lingering", "work", make) as lingering:
            await asyncio.sleep(0)
        use = workers.use("used", "work", make)
        used = await use.__aenter__()
        await asyncio.sleep(0)
    assert lingering.ended.is_set()
    assert used.ended.is_set()
    assert workers.running == {}
    await use.__aexit__(None, None, None)
    with pytest.raises(RuntimeError, match="workers is not open: there can be no work"):
        async with workers.use("a", "work", make):
            pass
    async with workers, workers.use("used", "work", make) as again:
        assert again is not used


async def test_the_work_inherits_nothing_from_whoever_comes_first() -> None:
    variable.set("a handler's")
    async with sharing() as workers, workers.use("a", "work", make) as worker:
        await asyncio.sleep(0)
        assert worker.context == "none"
