"""What one client costs a real API server: bytes of everything, and the requests of an hour.

The hour is that of a busy cluster, and it is played in a minute: every length of time is shorter by
as much. `costs` computes from it what a thousand clients cost a cluster of 50,000 pods.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.cluster.costs import Costs
from benchmarks.cluster.meter import Meter, reopened
from benchmarks.cluster.pods import Pods
from benchmarks.figures import Figure, Row
from pymicro.discovery.directory import Directory
from pymicro.kubernetes.api.resource import ENDPOINT_SLICES, PODS
from pymicro.kubernetes.api.timing import ReflectorTiming
from pymicro.kubernetes.api.transport import Transport
from pymicro.kubernetes.cluster.neighbours import SharingRules
from pymicro.kubernetes.pods import KubernetesRegistry
from pymicro.settings.config import load
from tests.fakes.slices import endpoint, slice

__all__ = ["hour"]

_MANIFEST = Path(__file__).parents[2] / "deploy" / "greeter" / "server.yaml"


def _pod(namespace: str, service: str, number: int) -> dict[str, Any]:
    """A pod as `pymicro manifest` has it and a kubelet runs it."""
    documents = yaml.safe_load_all(_MANIFEST.read_text())
    template = next(one for one in documents if one["kind"] == "Deployment")["spec"]["template"]
    name = f"{service}-5d4f8c7b9-{number:05}"
    ip = f"10.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"
    labels = {key.replace("greeter", service): text for key, text in template["metadata"]["labels"].items()}
    labels |= {"app.kubernetes.io/name": service, "pod-template-hash": "5d4f8c7b9"}
    moment = "2026-11-29T08:00:00Z"
    container = {
        "name": "greeter",
        "image": "registry.example/greeter:1.0",
        "imageID": f"registry.example/greeter@sha256:{'0' * 64}",
        "containerID": f"containerd://{'0' * 64}",
        "ready": True,
        "started": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": moment}},
    }
    kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            **template["metadata"],
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": f"{service}-5d4f8c7b9",
                    "uid": "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {**template["spec"], "nodeName": "node-17"},
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": moment}
                for kind in kinds
            ],
            "hostIP": "192.0.2.17",
            "hostIPs": [{"ip": "192.0.2.17"}],
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "startTime": moment,
            "containerStatuses": [container],
            "qosClass": "Burstable",
        },
    }


async def _fill(pods: Pods, namespace: str, services: int, each: int) -> list[dict[str, Any]]:
    made = [
        _pod(namespace, f"service-{number:03}", number * each + one)
        for number in range(services)
        for one in range(each)
    ]
    await asyncio.gather(*map(pods.make, made))
    return made


async def _slices(pods: Pods, namespace: str, count: int, endpoints: int) -> None:
    for number in range(count):
        listed = [
            endpoint(
                f"10.0.{number}.{one}", zone="zone-1", node="node-17", pod=f"service-{number:03}-{one:05}"
            )
            for one in range(endpoints)
        ]
        body = slice(f"service-{number:03}-x", *listed, service=f"service-{number:03}", namespace=namespace)
        await pods.post(f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", body)


@contextlib.contextmanager
def _counted() -> Iterator[list[int]]:
    """Counts every request that any client of ours sends."""
    send = Transport.send
    sent = [0]

    async def counting(self: Transport, *given: Any, **more: Any) -> Any:
        sent[0] += 1
        return await send(self, *given, **more)

    Transport.send = counting  # type: ignore[method-assign]
    try:
        yield sent
    finally:
        Transport.send = send  # type: ignore[method-assign]


async def _played(
    meter: Meter, pods: Pods, made: list[dict[str, Any]], rules: SharingRules, seconds: float
) -> tuple[int, float, float]:
    """Connections, requests and lists of an hour of a client of 30 services, while their pods change."""
    scale = seconds / 3600
    usual = ReflectorTiming()
    timing = replace(
        usual,
        watch_timeout=tuple(length * scale for length in usual.watch_timeout),
        idle_limit=max(usual.idle_limit * scale, 2.0),
        resync=usual.resync * scale,
        healthy_after=usual.healthy_after * scale,
        short_watch=usual.short_watch * scale,
        backoff_initial=usual.backoff_initial * scale,
    )
    namespace = made[0]["metadata"]["namespace"]
    config = load(
        {"registry_address": [f"kubeconfig={meter.kubeconfig}"], "registry_namespace": [namespace]},
        environ={},
    )
    services = sorted({one["metadata"]["labels"]["app.kubernetes.io/name"] for one in made})
    registry = KubernetesRegistry(config, environ={}, timing=timing, sharing=rules)
    stop = asyncio.Event()

    async def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await asyncio.gather(*(pods.change(one, number) for one in made))
            await asyncio.sleep(0.5)

    async def follow(directory: Directory, service: str) -> None:
        async for _ in directory.watch(service):
            pass

    async with registry, Directory(registry) as directory:
        following = [asyncio.create_task(follow(directory, service)) for service in services]
        changing = asyncio.create_task(change())
        # Until nothing is arranged any more: the last newcomers have joined.
        await asyncio.sleep(2 * rules.quiet)
        reflectors = registry._opened()[1].running
        before = sum(one.state.lists for one in reflectors)
        most = meter.relay.connections
        with _counted() as sent:
            await asyncio.sleep(seconds)
        lists = sum(one.state.lists for one in reflectors) - before
        stop.set()
        await changing
        for task in following:
            task.cancel()
        await asyncio.wait(following)
    return most, sent[0] / len(reflectors), lists / len(reflectors)


async def hour(
    pods: Pods, namespaces: Sequence[str], *, seconds: float, many: int = 10, found: list[Costs]
) -> AsyncIterator[list[Row]]:
    """The figures of one client, for `table`, which `found` is filled for.

    Args:
        namespaces: Two empty ones.
        seconds: In how many an hour is played.
        many: How many more pods of each service there are in one of them.
    """

    def row(what: str, value: float, unit: str = "", detail: str = "") -> list[Row]:
        return [Row("hour", what, Figure.of([value]), unit, None, detail)]

    few, more = namespaces
    made = await _fill(pods, few, 30, 1)
    await _fill(pods, more, 30, 1 + many)
    await _slices(pods, few, 30, 1)
    await _slices(pods, more, 30, 1 + many)
    async with Meter.before(pods) as meter:
        short, long = await meter.listing(PODS, few), await meter.listing(PODS, more)
        pod = (long - short) / (30 * many)
        yield row("a pod in a list", pod, "B")
        short, long = await meter.listing(ENDPOINT_SLICES, few), await meter.listing(ENDPOINT_SLICES, more)
        one = (long - short) / (30 * many)
        yield row("an endpoint in a list of slices", one, "B")
        async with meter.reflecting(PODS, few) as reflector:
            before = await meter.quiet()
            for number in range(4):
                await asyncio.gather(*(pods.change(one, number) for one in made))
            event = (await meter.quiet() - before) / (4 * len(made))
            yield row("an event", event, "B")
        # As short as the watches live here, they still count as good ones.
        patient = replace(ReflectorTiming(), short_watch=0.01, backoff_initial=0.01)
        async with meter.reflecting(PODS, few, patient) as reflector:
            before = await meter.quiet()
            for _ in range(10):
                watches = reflector.state.watches
                await meter.relay.drop()
                await reopened(reflector, watches)
                await meter.quiet()
            opened = (await meter.quiet() - before) / 10
            if reflector.state.lists > 1:
                raise RuntimeError("it listed, instead of going on")
            detail = "connection, TLS, request, head of the answer"
            yield row("a watch that is opened", opened, "B", detail)
        base = (short - opened) / 30 - one
        bookmark = await meter.bookmark(few)
        own = await _played(meter, pods, made, SharingRules(handful=1000), seconds)
        what = "requests an hour, 30 services, a watch for each"
        yield row(what, own[1] * own[0], detail=f"{own[0]} connections, {own[2]:.1f} lists each")
        shared = await _played(meter, pods, made, SharingRules(), seconds)
        what = "requests an hour, 30 services, one watch"
        yield row(what, shared[1] * shared[0], detail=f"{shared[0]} connection, {shared[2]:.1f} lists")
    watches, lists = (math.fsum([own[at], shared[at]]) / 2 for at in (1, 2))
    found.append(Costs(pod, event, opened, bookmark, one, base, watches, lists, own[0], shared[0]))
