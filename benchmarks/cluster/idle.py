"""What a client that has nothing to do asks of the API server in an hour."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from benchmarks.cluster.pods import Pods
from benchmarks.figures import Figure, Row
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.query import ObjectQuery
from pymicro.kubernetes.api.reflector import Reflector
from pymicro.kubernetes.api.resource import PODS
from pymicro.kubernetes.api.timing import ReflectorTiming

__all__ = ["idle"]


def _uid(pod: dict[str, object]) -> str:
    return "kept"


async def idle(pods: Pods, *, seconds: float) -> AsyncIterator[list[Row]]:
    """An hour's requests of one reflector of a service that does not change, in `seconds`.

    Every time the reflector goes by is shortened by as much as the hour is. A
    cluster as quiet as this sends no bookmarks, so that a watch is left and begun
    again after each idle limit: of a busy one it would be fewer.
    """
    scale = seconds / 3600
    usual = ReflectorTiming()
    timing = replace(
        usual,
        watch_timeout=tuple(length * scale for length in usual.watch_timeout),
        idle_limit=usual.idle_limit * scale,
        resync=usual.resync * scale,
        healthy_after=usual.healthy_after * scale,
        short_watch=usual.short_watch * scale,
    )
    await pods.create("idle", 3)
    async with KubeClient(lambda: find_cluster([f"kubeconfig={pods.kubeconfig}"])) as client:
        query = ObjectQuery(PODS, pods.namespace, labels="micro.mu/selector-idle=service")
        reflector = Reflector(client, query, _uid, timing=timing)
        running = asyncio.create_task(reflector.run())
        await asyncio.sleep(seconds)
        state = reflector.state
        running.cancel()
        await asyncio.wait([running])
    figure = Figure.of([float(state.lists + state.watches)])
    detail = f"{state.lists} lists, {state.watches} watches, errors {dict(state.errors) or 'none'}"
    yield [
        Row(
            "idle",
            "requests to the API server an hour, one service, nothing changes",
            figure,
            "",
            None,
            detail,
        )
    ]
