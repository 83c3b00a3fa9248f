"""A client of the API server, measured from a hop before it: connections, and bytes with TLS and all."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.cluster.pods import Pods
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.events import read_event
from pymicro.kubernetes.api.query import ObjectQuery
from pymicro.kubernetes.api.reflector import Reflector
from pymicro.kubernetes.api.resource import PODS, Resource
from pymicro.kubernetes.api.timing import ReflectorTiming
from tests.cluster.relay import Relay

__all__ = ["Meter", "reopened"]


class Meter:
    """A client of the API server, seen from the hop before it."""

    def __init__(self, relay: Relay, kubeconfig: str) -> None:
        self.relay = relay
        self.kubeconfig = kubeconfig

    @classmethod
    @asynccontextmanager
    async def before(cls, pods: Pods) -> AsyncGenerator[Meter, None]:
        document = json.loads(await asyncio.to_thread(Path(pods.kubeconfig).read_text))
        (cluster,) = document["clusters"]
        at = urlsplit(cluster["cluster"]["server"])
        assert at.hostname is not None
        assert at.port is not None
        with tempfile.TemporaryDirectory() as folder:
            async with Relay(at.hostname, at.port) as relay:
                cluster["cluster"]["server"] = f"https://{at.hostname}:{relay.port}"
                path = Path(folder) / "kubeconfig"
                await asyncio.to_thread(path.write_text, json.dumps(document))
                yield cls(relay, str(path))

    def client(self) -> KubeClient:
        return KubeClient(lambda: find_cluster([f"kubeconfig={self.kubeconfig}"]))

    async def quiet(self) -> int:
        """Wait until no more bytes come; how many there have been."""
        before = -1
        for _ in range(1000):
            if before == self.relay.passed:
                return before
            before = self.relay.passed
            await asyncio.sleep(0.3)
        raise RuntimeError("there are always more bytes")

    @asynccontextmanager
    async def reflecting(
        self, resource: Resource, namespace: str, timing: ReflectorTiming | None = None
    ) -> AsyncGenerator[Reflector[str], None]:
        """A reflector of everything in a namespace, which has listed it."""
        async with self.client() as client:
            query = ObjectQuery(resource, namespace)
            reflector = Reflector(client, query, _kept, timing=timing or ReflectorTiming())
            running = asyncio.create_task(reflector.run())
            try:
                async for _ in reflector.follow():
                    break
                yield reflector
            finally:
                running.cancel()
                await asyncio.wait([running])

    async def listing(self, resource: Resource, namespace: str) -> int:
        """Bytes until everything in the namespace is listed and watched."""
        before = await self.quiet()
        async with self.reflecting(resource, namespace):
            return await self.quiet() - before

    async def bookmark(self, namespace: str) -> int:
        """Bytes of the bookmark that ends a list; it is somewhat longer than others."""
        async with self.client() as client:
            query = ObjectQuery(PODS, namespace)
            asked = client.stream(query.path, query.stream_list(60), connect_timeout=10, idle_timeout=10)
            async with asked as lines:
                async for line in lines:
                    if read_event(line)[0] == "BOOKMARK":
                        return len(line) + 1
        raise RuntimeError("there was no bookmark")


def _kept(found: Mapping[str, Any]) -> str:
    return "kept"


async def reopened(reflector: Reflector[str], before: int) -> None:
    """Wait until the reflector has opened more watches than `before`."""
    for _ in range(30_000):
        if reflector.state.watches > before:
            return
        await asyncio.sleep(0.001)
    raise RuntimeError("no watch was opened")
