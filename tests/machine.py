"""How fast this machine is at the moment, for bars in CPU time.

Machines are shared. The same code takes up to twice the CPU time while somebody else uses the other thread
of its core, for many seconds on end, so that the least of five tries is slow as well. So what a bar is
held against is measured beside some work that is known, in the same second: a slow machine makes both slow.
"""

from __future__ import annotations

import json
import time

__all__ = ["slowness"]

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


def _work() -> float:
    """Parse, look through and sort, as the parsers do: a neighbour slows that down as much as them."""
    before = time.thread_time()
    for one in json.loads(_TEXT):
        sorted((key, value.strip()) for key, value in one["metadata"].items() if value.isprintable())
    return time.thread_time() - before
