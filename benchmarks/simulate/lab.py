"""One client and some nodes: the experiment that most scenarios vary."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.simulate.balancers import BALANCERS, MODELS
from benchmarks.simulate.clients import Client, Record, arrivals, nodes_of
from benchmarks.simulate.servers import Server, Work
from benchmarks.simulate.world import World
from pymicro.nodes.node import NodeSet

__all__ = ["ALL", "Change", "experiment", "percentile", "seeded"]

ALL = {**BALANCERS, **MODELS}

Change = Callable[[World, list[Server], Client], None]
"""Plans what happens to the nodes."""


def seeded(*what: object) -> random.Random:
    """Randomness that is the same in each run, and another one for each purpose."""
    return random.Random("/".join(map(str, what)))


def experiment(
    balancer: str,
    work: Callable[[random.Random], Work],
    change: Change | None = None,
    *,
    rate: float,
    seconds: float,
    nodes: int = 10,
    slots: int = 1_000_000,
    stands: Callable[[random.Random], Sequence[tuple[float, float]]] = lambda rng: (),
    ejection: bool = False,
    **client: Any,
) -> Record:
    """One client calls `nodes` nodes at random moments, `rate` times a second.

    Ejection is off unless asked for: it would hide what the balancer itself does.
    """
    world = World()
    everyone = nodes_of(nodes)
    servers = [
        Server(world, node, work(seeded("work", place)), slots=slots, stands=stands(seeded("stands", place)))
        for place, node in enumerate(everyone)
    ]
    record = Record(servers)
    caller = Client(
        world,
        {server.node.key: server for server in servers},
        record,
        ALL[balancer](seeded("balancer"), world.clock),
        seeded("client"),
        NodeSet.of(everyone),
        ejection=ejection,
        **client,
    )
    arrivals(world, caller.call, rate, seeded("arrivals"), seconds)
    if change is not None:
        change(world, servers, caller)
    world.run(seconds + caller.deadline + 5.0)
    return record


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of values in order; nan if there are none."""
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
