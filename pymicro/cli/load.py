"""When `pymicro bench` makes its calls: some at a time, or so many a second."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Self

from pymicro.base.durations import format_duration, parse_duration
from pymicro.cli.report import InputError

__all__ = ["TAIL", "Load", "Ran", "apply_load"]

_MOST_AT_A_TIME: Final = 10_000
_HIGHEST_RATE: Final = 100_000.0
_LONGEST: Final = 3600.0
_MOST_REQUESTS: Final = 1_000_000_000

_AT_A_TIME: Final = 10
# With a rate, this only bounds how many calls slow answers pile up.
_AT_A_TIME_BY_RATE: Final = 1000
_DURATION: Final = 10.0

# Seconds that calls may go on after the end, before they are cancelled.
TAIL: Final = 5.0
# Seconds by which the event loop's timer may be late (it counts in whole milliseconds) without
# that being the fault of a call.
_TIMER: Final = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How many calls to make, and when.

    Attributes:
        at_a_time: Most calls in progress.
        rate: Calls a second; None to begin a call when another has ended.
        seconds: Seconds in which calls begin.
        requests: Most calls; None for no limit.
        warmup: Seconds of the same load beforehand, which are not counted.
    """

    at_a_time: int
    rate: float | None
    seconds: float
    requests: int | None
    warmup: float

    @classmethod
    def read(
        cls,
        *,
        concurrency: int | None,
        rate: float | None,
        duration: str | None,
        requests: int | None,
        warmup: str,
    ) -> Self:
        """Check the arguments of the command line.

        Raises:
            InputError: An argument is out of bounds; says which.
        """
        default = _AT_A_TIME if rate is None else _AT_A_TIME_BY_RATE
        at_a_time = default if concurrency is None else concurrency
        if not 1 <= at_a_time <= _MOST_AT_A_TIME:
            raise InputError(f"--concurrency: {at_a_time} is not 1 to {_MOST_AT_A_TIME}")
        # Written with `not`, because every comparison with nan is false.
        if rate is not None and not 0.1 <= rate <= _HIGHEST_RATE:
            raise InputError(f"--rate: {rate:g} is not 0.1 to {_HIGHEST_RATE:.0f} calls a second")
        if requests is not None and not 1 <= requests <= _MOST_REQUESTS:
            raise InputError(f"--requests: {requests} is not 1 to {_MOST_REQUESTS}")
        seconds = _LONGEST if requests is not None else _DURATION
        if duration is not None:
            seconds = _seconds("--duration", duration)
            if not seconds:
                raise InputError("--duration: 0s is no time to make calls in")
        return cls(
            at_a_time=at_a_time,
            rate=rate,
            seconds=seconds,
            requests=requests,
            warmup=_seconds("--warmup", warmup),
        )

    def describe(self) -> str:
        """`10 at a time for 10s`."""
        many = "" if self.requests is None else f"{self.requests} calls, "
        pace = f"{self.at_a_time} at a time" if self.rate is None else f"{self.rate:g} a second"
        endless = self.requests is not None and self.seconds == _LONGEST
        long = "" if endless else f" for {format_duration(self.seconds)}"
        return f"{many}{pace}{long}"


def _seconds(flag: str, text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as exc:
        raise InputError(f"{flag}: {exc}") from None
    if seconds > _LONGEST:
        raise InputError(f"{flag}: {text} is more than {format_duration(_LONGEST)}")
    return seconds


@dataclass(frozen=True, slots=True)
class Ran:
    """How the run went.

    Attributes:
        seconds: From the beginning of the first call to the end of the last one.
        missed: Calls that were due by the rate but did not begin, because too many
            calls were in progress or this process had no time for more.
        unfinished: Calls that were cancelled at the end.
    """

    seconds: float
    missed: int
    unfinished: int


async def apply_load(
    load: Load,
    call: Callable[[float], Coroutine[Any, Any, None]],
    *,
    seconds: float,
    requests: int | None,
    stop: asyncio.Event,
) -> Ran:
    """Make calls until the time is over, or until `stop` is set, which cancels those in progress.

    Args:
        call: Makes one call; gets the moment (of `time.perf_counter`) from which its
            time counts. With a rate, that is the moment when the call was due: if the
            call had to wait for slower ones before it, its latency shows that wait
            and does not hide it (coordinated omission).
    """
    pace = _Closed(load, call, requests) if load.rate is None else _Open(load, call, requests, load.rate)
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        pace.start(group)
        await _either(pace.ended.wait(), stop.wait(), seconds)
        pace.close()
        if not stop.is_set():
            await _either(pace.ended.wait(), stop.wait(), TAIL)
        unfinished = pace.cancel()
    return Ran(time.perf_counter() - begin, pace.missed, unfinished)


async def _either(one: Awaitable[Any], other: Awaitable[Any], timeout: float) -> None:
    tasks = [asyncio.ensure_future(one), asyncio.ensure_future(other)]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class _Pace(ABC):
    """What both ways of pacing have in common.

    Attributes:
        ended: Set when no call is in progress and none will begin.
        missed: As in `Ran`.
    """

    def __init__(
        self, load: Load, call: Callable[[float], Coroutine[Any, Any, None]], requests: int | None
    ) -> None:
        self._call = call
        self._at_a_time = load.at_a_time
        self._left = requests
        self._open = True
        self._busy: set[asyncio.Task[None]] = set()
        self.ended = asyncio.Event()
        self.missed = 0

    @abstractmethod
    def start(self, group: asyncio.TaskGroup) -> None:
        """Start making calls, in tasks of the group."""

    def close(self) -> None:
        """Begin no further call."""
        self._open = False

    def cancel(self) -> int:
        """Cancel the calls in progress; return how many there were."""
        for task in self._busy:
            task.cancel()
        return len(self._busy)

    def _take(self) -> bool:
        """Whether there is another call to make."""
        if not self._open or self._left == 0:
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def _begin(self, group: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> None:
        task = group.create_task(work, name="calls of bench")
        self._busy.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._busy.discard(task)
        self._look()

    def _look(self) -> None:
        if not self._busy:
            self.ended.set()


class _Closed(_Pace):
    """Each of several workers makes one call after the other."""

    def start(self, group: asyncio.TaskGroup) -> None:
        for _ in range(min(self._at_a_time, self._left or self._at_a_time)):
            self._begin(group, self._work())

    async def _work(self) -> None:
        while self._take():
            await self._call(time.perf_counter())


class _Open(_Pace):
    """Calls begin when they are due, whatever happens to earlier ones."""

    def __init__(
        self,
        load: Load,
        call: Callable[[float], Coroutine[Any, Any, None]],
        requests: int | None,
        rate: float,
    ) -> None:
        super().__init__(load, call, requests)
        self._rate = rate
        self._first = 0.0
        self._begun = 0
        self._pacer: asyncio.Task[None] | None = None
        self._place = asyncio.Event()

    def start(self, group: asyncio.TaskGroup) -> None:
        self._first = time.perf_counter()
        self._pacer = group.create_task(self._pace(group), name="pace of bench")

    def close(self) -> None:
        if self._open and self._pacer is not None and not self._pacer.done():
            self._pacer.cancel()
            due = int((time.perf_counter() - self._first) * self._rate) + 1
            if self._left is not None:
                due = min(due, self._begun + self._left)
            # A call that is due just now is not missed.
            self.missed = max(0, due - self._begun - 1)
        super().close()
        self._look()

    async def _pace(self, group: asyncio.TaskGroup) -> None:
        while self._left != 0:
            due = self._first + self._begun / self._rate
            begin = due
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
                now = time.perf_counter()
                if now - due < _TIMER:
                    begin = now
            while len(self._busy) >= self._at_a_time:
                self._place.clear()
                await self._place.wait()
            self._take()
            self._begun += 1
            self._begin(group, self._call(begin))
        self._open = False
        self._look()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._place.set()
        super()._over(task)

    def _look(self) -> None:
        if not self._open:
            super()._look()
