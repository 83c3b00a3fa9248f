"""The scenarios, by the names the command line takes."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.simulate.results import Result
from benchmarks.simulate.scenarios import (
    black_hole,
    fast_failing,
    many,
    outages,
    pauses,
    rollout,
    slow_node,
    streams,
    subsets,
)

__all__ = ["SCENARIOS"]

SCENARIOS: dict[str, Callable[[bool], Result]] = {
    "slow-node": slow_node.run,
    "fast-failing": fast_failing.run,
    "black-hole": black_hole.run,
    "pauses": pauses.run,
    "rollout": rollout.run,
    "streams": streams.run,
    "subsets": subsets.run,
    "outages": outages.run,
    "many": many.run,
}
"""Each takes whether it should be quick, and does what it always does if it should not."""
