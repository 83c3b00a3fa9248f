"""Something that is open as long as anybody uses it, in whatever order they come and go."""

from __future__ import annotations

import asyncio

import pytest

from pymicro.base.turnstile import Turnstile


class Shop(Turnstile):
    """Takes a turn of the loop to open and to close, or as long as it is made to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.failures: list[Exception] = []
        self.closing = asyncio.Event()
        self.closing.set()

    async def _enter(self) -> None:
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop()
        self.log.append("open")

    async def _leave(self) -> None:
        await self.closing.wait()
        self.log.append("closed")


async def test_it_is_open_from_the_first_to_the_last() -> None:
    shop = Shop()
    for _ in range(2):
        await asyncio.gather(*(shop.__aenter__() for _ in range(3)))
        await asyncio.gather(*(shop.__aexit__(None, None, None) for _ in range(3)))
    assert shop.log == ["open", "closed"] * 2


async def test_who_comes_while_it_closes_finds_it_open() -> None:
    shop = Shop()
    await shop.__aenter__()
    shop.closing.clear()
    leaving = asyncio.create_task(shop.__aexit__(None, None, None))
    coming = asyncio.create_task(shop.__aenter__())
    await asyncio.sleep(0)  # both have begun
    shop.closing.set()
    await asyncio.gather(leaving, coming)
    assert shop.log == ["open", "closed", "open"]
    await shop.__aexit__(None, None, None)
    assert shop.log == ["open", "closed", "open", "closed"]


async def test_a_failure_to_open_is_for_who_came() -> None:
    shop = Shop()
    shop.failures.append(OSError("no key"))
    with pytest.raises(OSError, match="no key"):
        await shop.__aenter__()
    await shop.__aenter__()
    await shop.__aexit__(None, None, None)
    assert shop.log == ["open", "closed"]


async def test_who_is_cancelled_while_leaving_has_left() -> None:
    shop = Shop()
    await shop.__aenter__()
    shop.closing.clear()
    last = asyncio.create_task(shop.__aexit__(None, None, None))
    coming = asyncio.create_task(shop.__aenter__())
    await asyncio.sleep(0)  # one closes it, the other waits
    impatient = asyncio.create_task(shop.__aexit__(None, None, None))  # on behalf of who is coming
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    assert impatient.cancelled()
    shop.closing.set()
    await asyncio.gather(last, coming)
    await shop.__aenter__()
    await shop.__aexit__(None, None, None)
    assert shop.log == ["open", "closed", "open", "closed"]


def test_it_outlives_event_loops() -> None:
    shops: list[Shop] = []

    async def use() -> None:
        shops[:] = shops or [Shop()]
        shop = shops[0]
        await asyncio.gather(*(shop.__aenter__() for _ in range(3)))
        await asyncio.gather(*(shop.__aexit__(None, None, None) for _ in range(3)))

    asyncio.run(use())
    asyncio.run(use())
    assert shops[0].log == ["open", "closed"] * 2
