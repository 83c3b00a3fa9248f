"""A client that valgrind counts: `python -m benchmarks.counted KIND LOOP ADDRESS LENGTH… -- LOAD…`.

For each load it warms up and marks. Then it makes each length's calls, and marks after each
(`benchmarks/marks.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.loops import run
from benchmarks.marks import mark
from benchmarks.rounds import Work
from benchmarks.workloads import short_streams, unary

__all__ = ["LOADS", "WARM_UP"]

WARM_UP = 256
LOADS: dict[str, Work] = {
    "1 in flight": unary(1),
    "64 in flight": unary(64),
    "calls that stream one message": short_streams,
}


async def count(kind: str, address: str, lengths: Sequence[int], loads: Sequence[str]) -> None:
    # Here: it imports much that only clients need.
    from benchmarks.calls import CHANNELS

    async with CHANNELS[kind]([address]) as stub:
        for load in loads:
            await LOADS[load](stub, WARM_UP)
            mark()
            for length in lengths:
                await LOADS[load](stub, length)
                mark()


if __name__ == "__main__":
    kind, loop, address, *rest = sys.argv[1:]
    at = rest.index("--")
    run(count(kind, address, [int(length) for length in rest[:at]], rest[at + 1 :]), loop)
