"""Ten thousand pods on a real API server: found whole, by a streaming list and by pages."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.reflector import ObjectQuery, Reflector
from pymicro.kubernetes.api.resource import PODS
from pymicro.kubernetes.pods import KubernetesRegistry
from pymicro.kubernetes.pods.reader import PodReader
from pymicro.settings.config import load
from tests.cluster import pods
from tests.cluster.plane import ControlPlane
from tests.fakes.pods import pod

pytestmark = pytest.mark.cluster

MANY = 10_000
# Far above what is seen (1.2 s and 30 ms on two idle cores): the bars are held where nothing else runs.
LONGEST_SYNC = 30.0
LONGEST_BLOCK = 0.5


@dataclass
class Crowd:
    """A control plane with very many greeters in its namespace `default`, and their addresses."""

    plane: ControlPlane
    addresses: set[str]


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    with ControlPlane(controllers=()) as plane:
        labels = {**pods.SERVICE, "app.kubernetes.io/name": "greeter", "pod-template-hash": "5d4f8c7b9"}
        made = pods.multiply(plane, pod(labels=labels), MANY)
        yield Crowd(plane, {f"{ip}:8080" for ip in made})


class Blocked:
    """How long the event loop was busy with one thing."""

    longest = 0.0

    async def run(self, every: float = 0.002) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(every)
            self.longest = max(self.longest, time.monotonic() - before - every)


@contextlib.asynccontextmanager
async def watched_loop() -> AsyncIterator[Blocked]:
    blocked = Blocked()
    task = asyncio.create_task(blocked.run())
    try:
        yield blocked
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def first_sync(plane: ControlPlane) -> tuple[Any, set[str], float, float]:
    """State, addresses, seconds and the longest block of a reflector's first list."""
    reader = PodReader("greeter")
    query = ObjectQuery(PODS, "default", labels="micro.mu/selector-greeter=service")
    cluster = await find_cluster([f"kubeconfig={plane.kubeconfig}"], {})
    async with KubeClient(cluster) as client:
        # Imports and TLS are no part of it.
        await client.request("GET", "/version")
        async with watched_loop() as blocked:
            reflector = Reflector(client, query, reader)
            began = time.monotonic()
            running = asyncio.create_task(reflector.run())
            try:
                async for found in reflector.follow():
                    seconds = time.monotonic() - began
                    addresses = {node.address for nodes in found.values() for node in nodes}
                    break
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
        state = reflector.state
    return state, addresses, seconds, blocked.longest


async def test_a_streaming_list_brings_all_of_them(crowd: Crowd, say: Callable[[str], None]) -> None:
    state, addresses, seconds, blocked = await first_sync(crowd.plane)
    say(f"first sync of {MANY} pods, streaming list: {seconds:.2f} s, loop blocked {blocked * 1e3:.0f} ms")
    assert addresses == crowd.addresses
    assert (state.streaming_list, state.lists, state.errors) == (True, 1, {})
    assert seconds < LONGEST_SYNC
    assert blocked < LONGEST_BLOCK


async def test_a_change_among_them_is_seen_and_the_rest_stays(
    crowd: Crowd, say: Callable[[str], None]
) -> None:
    config = load({"registry_address": [f"kubeconfig={crowd.plane.kubeconfig}"]}, environ={})
    one = crowd.plane.api.get(f"/api/v1/namespaces/default/pods/copy-{MANY // 2:05}")
    others = crowd.addresses - {f"{one['status']['podIP']}:8080"}
    async with KubernetesRegistry(config, environ={}) as registry, asyncio.timeout(60):
        sets = registry.watch("greeter")
        try:
            async for nodes in sets:
                if len(nodes) == MANY:
                    break
            for number, (ready, wanted) in enumerate(((False, others), (True, crowd.addresses))):
                began = time.monotonic()
                await asyncio.to_thread(pods.set_ready, crowd.plane.api, one, ready)
                async for nodes in sets:
                    if len(nodes) == len(wanted):
                        break
                delay = time.monotonic() - began
                assert {node.address for node in nodes} == wanted
                what = ("unready", "ready")[number]
                say(f"a pod of {MANY} becomes {what}: seen {delay * 1e3:.0f} ms after the write began")
        finally:
            await sets.aclose()


async def test_where_streaming_lists_are_switched_off_pages_bring_all_of_them(
    crowd: Crowd, say: Callable[[str], None]
) -> None:
    await asyncio.to_thread(crowd.plane.stop_apiserver)
    await asyncio.to_thread(crowd.plane.start_apiserver, "--feature-gates=WatchList=false")
    state, addresses, seconds, blocked = await first_sync(crowd.plane)
    say(f"list of {MANY} pods in pages: {seconds:.2f} s, loop blocked {blocked * 1e3:.0f} ms")
    assert addresses == crowd.addresses
    assert (state.streaming_list, state.lists) == (False, 1)
    assert seconds < LONGEST_SYNC
    assert blocked < LONGEST_BLOCK
