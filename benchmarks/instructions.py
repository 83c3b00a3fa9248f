"""Instructions per call, counted by valgrind's callgrind: hardly touched by what else the machine does.

The Python end runs under callgrind, the Go peer at the other end does not. A call costs the slope
between two lengths, so that what each length costs once falls out. One process measures some pairs of
lengths, one after the other. callgrind counts user space only, all threads of the process together.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from statistics import median

from benchmarks.calls import other_server
from benchmarks.counted import LOADS, WARM_UP
from benchmarks.figures import Bar, Figure, Row, at_least
from benchmarks.marks import AT
from benchmarks.processes import GoLoad, ServerProcess, run_python
from benchmarks.rounds import Settings

__all__ = ["client", "instructions", "need", "server", "slopes", "telemetry"]

# Calls. At these lengths unary calls of a channel repeat within 1 %, nearly all else within 4 %.
SHORT, LONG = 250, 1000
PAIRS = 2
BAR = at_least(0.95)
INTERCEPTED = "1 in flight, one interceptor"
Count = Callable[[str, Settings, Sequence[int], Sequence[str]], dict[str, list[float]]]
BARS: dict[str, Bar | None] = {load: BAR if "in flight" in load else None for load in LOADS}


async def instructions(settings: Settings) -> AsyncIterator[list[Row]]:
    lengths = [SHORT, LONG] * PAIRS if settings.rounds > 2 else [40, 80]
    for end, counted in (("channel", client), ("server", server)):
        plain = await _both(counted, "", settings, lengths, list(LOADS))
        intercepted = await _both(counted, "-intercepted", settings, lengths, ["1 in flight"])
        found = {**plain, INTERCEPTED: intercepted["1 in flight"]}
        yield [_row(end, load, sides, settings.loop) for load, sides in found.items()]


async def telemetry(settings: Settings) -> AsyncIterator[list[Row]]:
    """What metrics cost, and what spans cost that nobody samples: instructions of a call without and with."""
    lengths = [SHORT, LONG] * PAIRS if settings.rounds > 2 else [40, 80]
    load = "1 in flight"
    for end, counted in (("channel", client), ("server", server)):
        kinds = ("pymicro", "pymicro-uncounted", "pymicro-unsampled")
        found = await asyncio.gather(
            *(asyncio.to_thread(counted, kind, settings, lengths, [load]) for kind in kinds)
        )
        counts, uncounted, unsampled = (one[load] for one in found)
        yield [
            _telemetry_row(f"{end}, metrics on against off", (counts, uncounted), settings.loop),
            _telemetry_row(f"{end}, spans unsampled against no SDK", (unsampled, counts), settings.loop),
        ]


def _telemetry_row(what: str, sides: tuple[list[float], list[float]], loop: str) -> Row:
    dear, cheap = sides
    ratios = [without / withal for withal in dear for without in cheap]
    more = f"{(median(dear) - median(cheap)) / 1e3:,.1f} thousand a call more"
    return Row("telemetry", f"{what}, {loop}", Figure.of(ratios), "", None, more)


def need(settings: Settings) -> None:
    """Say what is missing.

    Raises:
        SystemExit: Instructions cannot be counted.
    """
    if not settings.go:
        raise SystemExit("instructions are counted against the Go peer only: leave out `--peer python`")
    if shutil.which("valgrind") is None:
        raise SystemExit(
            "instructions are counted by valgrind, which is not on PATH (Debian: apt-get install valgrind)"
        )


def _row(end: str, load: str, sides: tuple[list[float], list[float]], loop: str) -> Row:
    ours, theirs = sides
    # Every value of ours with every one of theirs: they were not taken in turns, as by the clock.
    ratios = [their / our for our in ours for their in theirs]
    detail = f"{median(ours) / 1e3:,.1f} against {median(theirs) / 1e3:,.1f} thousand a call"
    return Row("instructions", f"{end}, {load}, {loop}", Figure.of(ratios), "", BARS.get(load), detail)


async def _both(
    counted: Count, suffix: str, settings: Settings, lengths: Sequence[int], loads: Sequence[str]
) -> dict[str, tuple[list[float], list[float]]]:
    """For each load the instructions a call, pymicro's and bare's; both are counted at the same time."""
    ours, theirs = await asyncio.gather(
        *(
            asyncio.to_thread(counted, f"{kind}{suffix}", settings, lengths, loads)
            for kind in ("pymicro", "bare")
        )
    )
    return {load: (ours[load], theirs[load]) for load in loads}


def client(
    kind: str, settings: Settings, lengths: Sequence[int], loads: Sequence[str]
) -> dict[str, list[float]]:
    """The instructions a call of a channel, for each load and pair of lengths."""
    with tempfile.TemporaryDirectory() as folder, other_server(settings) as other:
        run_python(
            *("-m", "benchmarks.counted", kind, settings.loop, other.addresses[0]),
            *(*map(str, lengths), "--", *loads),
            tool=_valgrind(folder),
            timeout=1200,
        )
        return slopes(Path(folder), lengths, loads)


def server(
    kind: str, settings: Settings, lengths: Sequence[int], loads: Sequence[str]
) -> dict[str, list[float]]:
    """The instructions of a server a call, for each load and pair of lengths."""
    with tempfile.TemporaryDirectory() as folder:
        with (
            ServerProcess(kind, loop=settings.loop, tool=_valgrind(folder)) as process,
            GoLoad(process.addresses[0]) as load,
        ):
            for name in loads:
                for length in (WARM_UP, *lengths):
                    asyncio.run(LOADS[name](load, length))
                    process.cpu()
        return slopes(Path(folder), lengths, loads)


def _valgrind(folder: str) -> list[str]:
    # A fixed seed: else the order of sets and the collisions of dictionaries differ from run to run.
    return [
        # No call may end at its deadline because all is fifty times slower.
        *("env", "PYTHONHASHSEED=0", "MICRO_CLIENT_REQUEST_TIMEOUT=10m"),
        *("valgrind", "--tool=callgrind", "--quiet", f"--dump-before={AT}"),
        f"--callgrind-out-file={folder}/counted",
    ]


def slopes(folder: Path, lengths: Sequence[int], loads: Sequence[str]) -> dict[str, list[float]]:
    """The instructions a call of each pair of lengths."""
    written = len(list(folder.glob("counted.*")))
    expected = len(loads) * (1 + len(lengths))
    if written != expected:
        raise RuntimeError(f"valgrind wrote {written} counts, and {expected} marks were set")
    found = {}
    for index, load in enumerate(loads):
        # What was counted before the load's first mark is no length's.
        first = index * (1 + len(lengths)) + 2
        costs = [_total(folder / f"counted.{first + place}") for place in range(len(lengths))]
        found[load] = [
            (costs[place + 1] - costs[place]) / (lengths[place + 1] - lengths[place])
            for place in range(0, len(lengths), 2)
        ]
    return found


def _total(path: Path) -> int:
    with path.open() as lines:
        for line in lines:
            if found := re.match(r"summary: (\d+)", line):
                return int(found[1])
    raise RuntimeError(f"{os.fspath(path)} has no summary")
