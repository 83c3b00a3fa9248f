from __future__ import annotations

import asyncio
import time

import pytest

from pymicro.cli.load import Load, Ran, apply_load
from pymicro.cli.report import InputError


def load(**given: object) -> Load:
    words = {"concurrency": None, "rate": None, "duration": None, "requests": None, "warmup": "0s", **given}
    return Load.read(**words)  # type: ignore[arg-type]


class Calls:
    """Calls that take a time, and when each began to count."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.begun: list[float] = []
        self.latencies: list[float] = []
        self.now = self.most = 0
        self.full: tuple[int, asyncio.Event] | None = None

    async def __call__(self, begin: float) -> None:
        self.begun.append(begin)
        self.now += 1
        self.most = max(self.most, self.now)
        if self.full is not None and self.now == self.full[0]:
            self.full[1].set()
        try:
            await asyncio.sleep(self.seconds)  # the call's own time
        finally:
            self.now -= 1
        self.latencies.append(time.perf_counter() - begin)

    async def under(self, load: Load, stop: asyncio.Event | None = None) -> Ran:
        stop = stop or asyncio.Event()
        return await apply_load(load, self, seconds=load.seconds, requests=load.requests, stop=stop)


@pytest.mark.parametrize("rate", [None, 1000])
async def test_so_many_requests_are_made_and_no_more(rate: float | None) -> None:
    calls = Calls()
    ran = await calls.under(load(requests=25, concurrency=4, rate=rate))
    assert len(calls.latencies) == 25
    assert (ran.missed, ran.unfinished) == (0, 0)


@pytest.mark.parametrize("rate", [None, 2000])
async def test_so_many_are_in_progress_at_most(rate: float | None) -> None:
    calls = Calls(0.01)
    await calls.under(load(duration="0.2", concurrency=4, rate=rate))
    assert calls.most == 4


async def test_a_rate_is_kept() -> None:
    calls = Calls()
    ran = await calls.under(load(duration="0.5", rate=200))
    # A machine that is held up at the very end has begun fewer, and says so.
    assert 99 <= len(calls.latencies) + ran.missed <= ran.seconds * 200 + 1
    gaps = [later - earlier for earlier, later in zip(calls.begun, calls.begun[1:], strict=False)]
    assert sum(gaps) / len(gaps) == pytest.approx(0.005, rel=0.05)


async def test_with_a_rate_a_call_that_waits_behind_slow_ones_shows_it() -> None:
    calls = Calls(0.05)
    ran = await calls.under(load(duration="0.5", rate=100, concurrency=1))
    # 50 were due and one takes 50 ms: the last of the ten that fit began 0.4 s late.
    assert max(calls.latencies) > 0.3
    assert len(calls.latencies) <= 11
    assert ran.missed >= 35


async def test_without_a_rate_the_next_call_counts_from_its_begin() -> None:
    calls = Calls(0.01)
    await calls.under(load(requests=5, concurrency=1))
    ends = [begin + took for begin, took in zip(calls.begun, calls.latencies, strict=True)]
    assert all(begin >= end for begin, end in zip(calls.begun[1:], ends[:-1], strict=True))


@pytest.mark.parametrize("rate", [None, 100])
async def test_stop_cancels_what_is_in_progress_and_counts_it(rate: float | None) -> None:
    calls = Calls(60)
    stop = asyncio.Event()
    calls.full = 3, stop
    ran = await calls.under(load(concurrency=3, rate=rate), stop)
    assert (ran.unfinished, calls.now) == (3, 0)
    assert ran.seconds < 30


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"concurrency": 0}, "--concurrency: 0 is not 1 to 10000"),
        ({"concurrency": 10_001}, "--concurrency: 10001 is not 1 to 10000"),
        ({"rate": 0.0}, "--rate: 0 is not 0.1 to 100000 calls a second"),
        ({"rate": float("nan")}, "--rate: nan is not"),
        ({"rate": 1e6}, "--rate: 1e+06 is not"),
        ({"requests": 0}, "--requests: 0 is not 1 to 1000000000"),
        ({"duration": "2h"}, "--duration: 2h is more than 1h"),
        ({"duration": "0"}, "--duration: 0s is no time"),
        ({"duration": "soon"}, "--duration: 'soon' is no duration"),
        ({"warmup": "2h"}, "--warmup: 2h is more than 1h"),
    ],
)
def test_what_is_out_of_bounds_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(**given)
    assert str(caught.value).startswith(message)


def test_a_load_is_described_in_words() -> None:
    assert load().describe() == "10 at a time for 10s"
    assert load(rate=50, duration="1m").describe() == "50 a second for 1m"
    assert load(requests=100, concurrency=2).describe() == "100 calls, 2 at a time"
