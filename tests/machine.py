"""How fast this machine is at the moment, for bars in CPU time.

Machines are shared. The same code takes up to twice the CPU time while somebody else uses the other thread
of its core, for many seconds on end, so that the least of five tries is slow as well. So what a bar is
held against is measured beside some work that is known, in the same second: a slow machine makes both slow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable

__all__ = ["least_cpu", "least_cpu_now", "slowness"]

# A figure that is over its bar is measured again, as often as this. A neighbour that comes and goes within
# milliseconds slows a try down or the known work beside it; what is too slow by itself is so in every try.
TRIES = 20

# Seconds of CPU that the work takes on the machine that the bars were set on, while nobody else uses it.
FULL_SPEED = 0.0031
_TEXT = json.dumps(
    [
        {"id": f"n{number}", "metadata": {f"k{key}": f"v{number * key}" for key in range(20)}}
        for number in range(400)
    ]
)


def slowness() -> float:
    """How many times slower Python runs now than at full speed; 1 if it is not slower."""
    return max(1.0, min(_work() for _ in range(3)) / FULL_SPEED)


async def least_cpu(measure: Callable[[], Awaitable[float]], bar: float) -> float:
    """The least of some figures, each in seconds of CPU at full speed; the first within the bar ends it."""
    least = await measure() / slowness()
    for _ in range(TRIES - 1):
        if least <= bar:
            break
        least = min(least, await measure() / slowness())
    return least


def least_cpu_now(measure: Callable[[], float], bar: float) -> float:
    """The same of what waits for nothing."""
    least = measure() / slowness()
    for _ in range(TRIES - 1):
        if least <= bar:
            break
        least = min(least, measure() / slowness())
    return least


def _work() -> float:
    """Parse, look through and sort, as the parsers do: a neighbour slows that down as much as them."""
    before = time.thread_time()
    for one in json.loads(_TEXT):
        sorted((key, value.strip()) for key, value in one["metadata"].items() if value.isprintable())
    return time.thread_time() - before
