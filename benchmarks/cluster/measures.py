"""What is measured on the cluster; each benchmark runs every kind of follower side by side."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

from benchmarks.cluster.followers import Follower
from benchmarks.cluster.pods import Pods
from benchmarks.figures import Figure, Row, at_most

__all__ = ["propagation", "ten_thousand"]

OURS = "pymicro"
SERVICE = "bench"


def _percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


async def propagation(
    pods: Pods, kinds: Sequence[str], *, count: int = 1000, changes: int = 300, rate: float = 15.0
) -> AsyncIterator[list[Row]]:
    """How long after a write of a pod's readiness each follower knows it.

    The clock starts before the request is sent: its way to the API server and
    into etcd is part of the figure.
    """
    names = await pods.create(SERVICE, count)
    written: dict[tuple[str, str], float] = {}
    async with AsyncExitStack() as stack:
        followers = [
            await stack.enter_async_context(Follower(kind, pods.kubeconfig, pods.namespace, SERVICE))
            for kind in kinds
        ]
        order = random.sample(names, changes)
        begun = time.monotonic()
        for number, name in enumerate(order):
            await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
            written["left", pods.address(name)] = time.monotonic()
            await pods.set_ready(name, False)
        for number, name in enumerate(order):
            await asyncio.sleep(max(0.0, begun + (changes + number) / rate - time.monotonic()))
            written["came", pods.address(name)] = time.monotonic()
            await pods.set_ready(name, True)
        for follower in followers:
            await follower.wait_for(written.keys(), timeout=30.0)
        for follower in followers:
            for direction, what in (("came", "ready → known"), ("left", "unready → known")):
                took = [(follower.seen[key] - at) * 1e3 for key, at in written.items() if key[0] == direction]
                ours = follower.kind == OURS
                title = f"{follower.kind}, {count:,} pods, {what}"
                yield [
                    Row(
                        "propagation", f"{title}, p50", Figure.of(took), "ms", at_most(200) if ours else None
                    ),
                    Row(
                        "propagation",
                        f"{title}, p99",
                        Figure.of([_percentile(took, 99)]),
                        "ms",
                        at_most(1000) if ours else None,
                        f"longest {max(took):.0f} ms",
                    ),
                ]
    await pods.delete_all(SERVICE)


async def ten_thousand(
    pods: Pods,
    kinds: Sequence[str],
    *,
    count: int = 10_000,
    rounds: int = 5,
    rate: float = 100.0,
    seconds: float = 20.0,
) -> AsyncIterator[list[Row]]:
    """First sync, memory and blocking of fresh processes, then CPU while pods change."""
    names = await pods.create(SERVICE, count)
    for kind in kinds:
        ours = kind == OURS
        synced, grown, blocked = [], [], []
        for _ in range(rounds):
            async with Follower(kind, pods.kubeconfig, pods.namespace, SERVICE) as follower:
                assert follower.count == count, f"{kind} found {follower.count} of {count} pods"
                synced.append(follower.synced)
                grown.append(follower.grown)
                blocked.append(follower.blocked * 1e3)
        title = f"{kind}, {count:,} pods"
        rows = [
            Row("10k", f"{title}, first sync", Figure.of(synced), "s", at_most(2) if ours else None),
            Row("10k", f"{title}, memory", Figure.of(grown), "MB", at_most(30) if ours else None),
        ]
        if kind != "informer":  # a thread: it blocks by the interpreter's lock, not the loop
            rows.append(
                Row(
                    "10k",
                    f"{title}, loop blocked at a time",
                    Figure.of(blocked),
                    "ms",
                    at_most(50) if ours else None,
                )
            )
        yield rows
    for kind in kinds:
        async with Follower(kind, pods.kubeconfig, pods.namespace, SERVICE) as follower:
            shares = []
            order = itertools.cycle(random.sample(names, count // 10))
            ready = dict.fromkeys(names, True)
            for _ in range(rounds):
                before, begun = await follower.cpu(), time.monotonic()
                made = await _change(pods, order, ready, rate, seconds / rounds)
                shares.append(100 * (await follower.cpu() - before) / (time.monotonic() - begun))
            what = f"{kind}, {count:,} pods, CPU at {rate:g} changes/s"
            detail = f"{made / (seconds / rounds):.0f} changes/s were written"
            bar = at_most(20) if kind == OURS else None
            yield [Row("10k", what, Figure.of(shares), "%", bar, detail)]
            unready = [name for name, is_ready in ready.items() if not is_ready]
            await asyncio.gather(*(pods.set_ready(name, True) for name in unready))
    await pods.delete_all(SERVICE)


async def _change(
    pods: Pods, order: itertools.cycle[str], ready: dict[str, bool], rate: float, seconds: float
) -> int:
    """Flip the readiness of one pod after the other; how many writes were made."""
    made, begun = 0, time.monotonic()
    async with asyncio.TaskGroup() as group:
        while (now := time.monotonic()) < begun + seconds:
            if made >= (now - begun) * rate:
                await asyncio.sleep(0.002)
                continue
            name = next(order)
            ready[name] = not ready[name]
            group.create_task(pods.set_ready(name, ready[name]))
            made += 1
    return made
