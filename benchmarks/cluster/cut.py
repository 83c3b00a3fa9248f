"""How long a client is without a watch behind a load balancer that cuts every one."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace

from benchmarks.cluster.meter import Meter, reopened
from benchmarks.cluster.pods import Pods
from benchmarks.figures import Figure, Row, at_most
from pymicro.kubernetes.api.query import ObjectQuery
from pymicro.kubernetes.api.reflector import Reflector
from pymicro.kubernetes.api.resource import PODS
from pymicro.kubernetes.api.timing import ReflectorTiming
from tests.kubernetes.api.reflecting import Time

__all__ = ["cut"]

# HAProxy and nginx cut after 35 to 60 s in which nothing came.
LIVED = 35.0


async def cut(pods: Pods, *, hours: int, seconds: float = 3600.0) -> AsyncIterator[list[Row]]:
    """The share of an hour without a watch, if each is cut after 35 s.

    The watch's life and the pauses of the reflector go by in virtual time. The way back to the API
    server (connection, TLS, request) is a real one.
    """
    shares = []
    async with Meter.before(pods) as meter, meter.client() as client:
        for seed in range(hours):
            moment = Time()
            reflector = Reflector(
                client,
                ObjectQuery(PODS, pods.namespace),
                lambda pod: "kept",
                timing=replace(ReflectorTiming(), resync=1e6),
                clock=moment.clock,
                sleep=moment.sleep,
                uniform=random.Random(seed).uniform,
            )
            running = asyncio.create_task(reflector.run())
            async for _ in reflector.follow():
                break
            blind = lived = 0.0
            while lived + blind < seconds:
                moment.now += LIVED
                lived += LIVED
                watches, slept = reflector.state.watches, sum(moment.pauses)
                begun = time.monotonic()
                await meter.relay.drop()
                await reopened(reflector, watches)
                blind += time.monotonic() - begun + sum(moment.pauses) - slept
            shares.append(100 * blind / (lived + blind))
            running.cancel()
            await asyncio.wait([running])
    detail = f"{hours} hours, {round(seconds / LIVED)} cuts each"
    what = "watch cut every 35 s for an hour (virtual time): without a watch"
    yield [Row("cut", what, Figure.of(shares), "%", at_most(1.0), detail)]
