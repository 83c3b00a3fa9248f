"""A process that follows the ready pods of a service, in one of several ways.

`python -m benchmarks.cluster.follower KIND KUBECONFIG NAMESPACE SERVICE` prints one
JSON object a line: first `{"base": MB}` when everything is imported, then
`{"synced": seconds, "count": n, "blocked": seconds, "grown": MB}`, then
`{"at": seconds, "came": […], "left": […]}` with addresses at each change, by the
monotonic clock, which all processes of a machine share. A line on its standard
input is answered by `{"cpu": seconds}`; its end ends the process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

from benchmarks.child import resident_mb

LABEL = "micro.mu/selector-{}=service"


def say(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


Change = tuple[Collection[str], Collection[str]]


def tell(at: float, came: Collection[str], left: Collection[str]) -> None:
    if came or left:
        say(at=at, came=sorted(came), left=sorted(left))


class Blocked:
    """The longest time for which the event loop did not turn."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def measure(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.001)
            now = time.monotonic()
            self.longest = max(self.longest, now - last - 0.001)
            last = now


def ready(pod: Any) -> bool:
    """Whether a model object of a Kubernetes client is a pod that counts."""
    conditions = (pod.status.conditions if pod.status else None) or []
    return (
        pod.metadata.deletion_timestamp is None
        and bool(pod.status.pod_ip)
        and any(condition.type == "Ready" and condition.status == "True" for condition in conditions)
    )


async def with_pymicro(kubeconfig: str, namespace: str, service: str) -> AsyncIterator[Change]:
    import kubernetes_asyncio.client  # noqa: F401  the bar counts what is over it

    from pymicro.discovery.directory import Directory
    from pymicro.kubernetes.pods import KubernetesRegistry
    from pymicro.nodes.node import EMPTY, differing
    from pymicro.settings.config import load

    yield (), ()
    config = load(
        {
            "registry": "kubernetes",
            "registry_address": [f"kubeconfig={kubeconfig}"],
            "registry_namespace": [namespace],
        },
        environ={},
    )
    known = EMPTY
    async with KubernetesRegistry(config) as registry, Directory(registry) as directory:
        async for nodes in directory.watch(service):
            # As cheaply as a consumer can tell: nodes that stay are the same objects.
            gone, present = differing(known, nodes)
            before, after = ({node.address.rpartition(":")[0] for node in some} for some in (gone, present))
            yield after - before, before - after
            known = nodes


class Table:
    """Ready pods by uid, of model objects; says what an object changed."""

    def __init__(self) -> None:
        self.ips: dict[str, str] = {}

    def put(self, pod: Any) -> Change:
        if not ready(pod):
            return self.drop(pod)
        uid, ip = pod.metadata.uid, pod.status.pod_ip
        if self.ips.get(uid) == ip:
            return (), ()
        self.ips[uid] = ip
        return (ip,), ()

    def drop(self, pod: Any) -> Change:
        ip = self.ips.pop(pod.metadata.uid, None)
        return (), (() if ip is None else (ip,))


async def with_kubernetes_asyncio(kubeconfig: str, namespace: str, service: str) -> AsyncIterator[Change]:
    """As its documentation does it: a list, then its Watch from there."""
    from kubernetes_asyncio import client, config, watch

    yield (), ()
    await config.load_kube_config(kubeconfig)
    async with client.ApiClient() as api:
        v1 = client.CoreV1Api(api)
        selector = LABEL.format(service)
        listed = await v1.list_namespaced_pod(namespace, label_selector=selector)
        table = Table()
        for pod in listed.items:
            table.put(pod)
        version = listed.metadata.resource_version
        del listed, pod
        yield list(table.ips.values()), ()
        stream = watch.Watch().stream(
            v1.list_namespaced_pod, namespace, label_selector=selector, resource_version=version
        )
        async for event in stream:
            pod = event["object"]
            yield table.drop(pod) if event["type"] == "DELETED" else table.put(pod)


def with_informer(kubeconfig: str, namespace: str, service: str) -> None:
    """The SharedInformer of the package `kubernetes`: a thread, a cache of model objects, callbacks."""
    import kubernetes
    from kubernetes.informer import SharedInformer

    # Its watch is cut at the end of each run, and it logs that as an error.
    logging.getLogger("kubernetes").setLevel(logging.CRITICAL)
    kubernetes.config.load_kube_config(kubeconfig)
    api, selector = kubernetes.client.CoreV1Api(), LABEL.format(service)
    # It does not tell when it is in step: when it has as many pods as there are.
    want = len(api.list_namespaced_pod(namespace, label_selector=selector).items)
    gc.collect()
    base = resident_mb()
    say(base=base)
    begun, table, synced = time.monotonic(), Table(), threading.Event()

    def handler(take: Callable[[Any], Change]) -> Callable[[Any], None]:
        def handle(pod: Any) -> None:
            came, left = take(pod)
            if synced.is_set():
                tell(time.monotonic(), came, left)

        return handle

    informer = SharedInformer(api.list_namespaced_pod, namespace=namespace, label_selector=selector)
    informer.add_event_handler("ADDED", handler(table.put))
    informer.add_event_handler("MODIFIED", handler(table.put))
    informer.add_event_handler("DELETED", handler(table.drop))
    informer.start()
    while len(table.ips) < want:
        time.sleep(0.005)
    took = time.monotonic() - begun
    synced.set()
    gc.collect()
    say(synced=took, count=len(table.ips), blocked=0.0, grown=resident_mb() - base)
    answer()
    informer.stop()


def answer() -> None:
    """Answer each line of standard input until it ends."""
    for _ in sys.stdin:
        say(cpu=time.process_time())


ASYNC: dict[str, Callable[[str, str, str], AsyncIterator[Change]]] = {
    "pymicro": with_pymicro,
    "kubernetes_asyncio": with_kubernetes_asyncio,
}
KINDS = (*ASYNC, "informer")


async def follow(kind: str, kubeconfig: str, namespace: str, service: str) -> None:
    changes = ASYNC[kind](kubeconfig, namespace, service)
    await anext(changes)
    gc.collect()
    base = resident_mb()
    say(base=base)
    blocked = Blocked()
    measuring = asyncio.create_task(blocked.measure())
    begun = time.monotonic()
    first, _ = await anext(changes)
    took = time.monotonic() - begun
    # A turn of the loop for the probe: else what blocked it until now is not seen.
    await asyncio.sleep(0.01)
    measuring.cancel()
    gc.collect()
    say(synced=took, count=len(first), blocked=blocked.longest, grown=resident_mb() - base)
    del first

    async def read() -> None:
        async for came, left in changes:
            tell(time.monotonic(), came, left)

    reading = asyncio.create_task(read())
    answering = asyncio.create_task(asyncio.to_thread(answer))
    await asyncio.wait({reading, answering}, return_when=asyncio.FIRST_COMPLETED)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


def main() -> None:
    kind, *where = sys.argv[1:]
    if kind == "informer":
        with_informer(*where)
    else:
        asyncio.run(follow(kind, *where))


if __name__ == "__main__":
    main()
