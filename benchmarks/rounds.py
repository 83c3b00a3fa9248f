"""Two sides measured in alternating rounds, so that what the machine does besides cancels out.

A round is subject, baseline, baseline, subject (the next one begins with the
baseline), each with the same work: a drift that is linear over a round cancels
within it. Many short rounds beat few long ones: what disturbs comes in bursts of
about a second (bare against bare scattered as much in rounds of 0.6 s as in
rounds of 0.2 s). What two connections or two processes differ by though they are the
same (memory layout, threads) does not, so both sides are opened anew every few
rounds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

__all__ = ["Comparison", "Pair", "Settings", "Side", "Work", "compare"]

Work = Callable[[Any, int], Awaitable[None]]
"""Does so many calls (or messages) with a stub."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How long is measured.

    Attributes:
        rounds: Rounds of each benchmark; each gives one value.
        seconds: Length of one of the four slots of a round.
        fresh: Rounds after which both sides are opened anew.
        loop: The event loop of the Python processes.
        go: Whether the other end is the Go peer; else it is bare grpc.aio.
        least: Calls of a slot, however long they take.
    """

    rounds: int = 80
    seconds: float = 0.08
    fresh: int = 5
    loop: str = "asyncio"
    go: bool = True
    least: int = 64


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two things compared.

    Attributes:
        stub: What calls it.
        cpu: CPU seconds used so far by the process under test.
    """

    stub: Any
    cpu: Callable[[], float] = time.process_time


@dataclass(frozen=True, slots=True)
class Pair:
    subject: Side
    baseline: Side


@dataclass(slots=True)
class _Costs:
    clock: float = 0.0
    cpu: float = 0.0


@dataclass(slots=True)
class Comparison:
    """What came out, one value a round each.

    Attributes:
        clock: Calls per second of the subject ÷ the baseline's.
        cpu: The same by seconds of CPU time.
        per_call: Microseconds a call, by the clock and by CPU time, subject then baseline.
    """

    clock: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    per_call: dict[str, tuple[list[float], list[float]]] = field(
        default_factory=lambda: {"clock": ([], []), "cpu": ([], [])}
    )

    def add(self, subject: _Costs, baseline: _Costs, count: int) -> None:
        # Both did the same count, so the ratio of rates is the inverse ratio of costs.
        self.clock.append(baseline.clock / subject.clock)
        self.cpu.append(baseline.cpu / subject.cpu)
        for side, costs in enumerate((subject, baseline)):
            self.per_call["clock"][side].append(costs.clock / count * 1e6)
            self.per_call["cpu"][side].append(costs.cpu / count * 1e6)

    def detail(self, by: str, unit: str) -> str:
        """The medians behind a ratio: `7,800 against 8,100 calls/s`."""
        ours, theirs = (median(side) for side in self.per_call[by])
        if by == "clock":
            return f"{1e6 / ours:,.0f} against {1e6 / theirs:,.0f} {unit}/s"
        return f"{ours:.1f} against {theirs:.1f} µs CPU a {unit.removesuffix('s')}"


async def _slot(side: Side, work: Work, count: int, costs: _Costs) -> None:
    gc.collect()  # else one side pays for what the other left; never disabled within
    cpu, clock = side.cpu(), time.perf_counter()
    await work(side.stub, count)
    costs.clock += time.perf_counter() - clock
    costs.cpu += side.cpu() - cpu


async def _count_for(side: Side, work: Work, seconds: float, least: int) -> int:
    """How much work takes `seconds`; warms the side up on the way."""
    count = least
    while True:
        begun = time.perf_counter()
        await work(side.stub, count)
        taken = time.perf_counter() - begun
        if taken > seconds / 4:
            return max(least, int(count * seconds / taken))
        count *= 2


async def compare(
    open_pair: Callable[[], AbstractAsyncContextManager[Pair]], work: Work, settings: Settings
) -> Comparison:
    """Measure both sides of a pair at the same work for `settings.rounds` rounds.

    Args:
        open_pair: Opens both sides, ready to be called.
        work: What both do.
        settings: How long is measured.
    """
    result = Comparison()
    done = 0
    while done < settings.rounds:
        async with open_pair() as pair:
            await _count_for(pair.subject, work, settings.seconds, settings.least)
            count = await _count_for(pair.baseline, work, settings.seconds, settings.least)
            for _ in range(min(settings.fresh, settings.rounds - done)):
                subject, baseline = _Costs(), _Costs()
                order = [(pair.subject, subject), (pair.baseline, baseline)]
                if done % 2:
                    order.reverse()
                for side, costs in (*order, *reversed(order)):
                    await _slot(side, work, count, costs)
                result.add(subject, baseline, 2 * count)
                done += 1
    return result
