"""Memory comes back when the attacker has gone: to within 1 MB, with the second sweep of what was shared.

`pymicro.base.recent` sweeps every 25 s while a loop runs; here the test does.
"""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from pymicro.base.recent import sweep
from pymicro.discovery.registries.local import LocalRegistry
from pymicro.discovery.registries.local.folder import Folder, NodeFile
from pymicro.discovery.registries.mdns import MdnsTiming
from pymicro.discovery.registry import Registry
from pymicro.kubernetes.slices import EndpointSliceRegistry
from pymicro.nodes.node import Node, NodeSet
from pymicro.settings.config import load
from tests.discovery.registries import mdns_support
from tests.discovery.registries.etcd_support import etcd_registry
from tests.etcd_server import Etcd
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.slices import endpoint
from tests.fakes.slices import slice as endpoint_slice
from tests.kubernetes.kube_contract import QUICK, kubernetes
from tests.kubernetes.pods.test_faults_pods import labelled, recorded

# Slow, because each allocation is written down.
pytestmark = pytest.mark.once

BAR = 1 << 20
FLOOD = 10
PATIENCE = 30.0


def hostile(number: int) -> str:
    """A record of which nothing is like that of another, near all limits."""
    schema = {
        "name": f"M{number}",
        "type": "M",
        "values": [{"name": f"f{number}{n}", "type": "s"} for n in range(20)],
    }
    nodes = [
        {
            "id": f"evil-{number}-{port}",
            "address": f"10.6.0.{number}:{port}",
            "metadata": {f"{number}-{port}-{n}": "x" * 20 for n in range(40)},
        }
        for port in range(9000, 9008)
    ]
    return json.dumps(
        {
            "name": "greeter",
            "version": f"{number}" * 250,
            "endpoints": [{"name": f"S{number}.R{n}", "request": schema} for n in range(100)],
            "nodes": nodes,
        },
        separators=(",", ":"),
    )


class Memory:
    """What this process keeps of what it has read: by pymicro's own lines and json's reader."""

    _OURS = (tracemalloc.Filter(True, "*/pymicro/*"), tracemalloc.Filter(True, "*/json/decoder.py"))

    def kept(self) -> int:
        """Bytes, after two sweeps."""
        for _ in range(2):
            sweep()
        gc.collect()
        found = tracemalloc.take_snapshot().filter_traces(self._OURS)
        return sum(one.size for one in found.statistics("filename"))


@pytest.fixture
def memory() -> Iterator[Memory]:
    tracemalloc.start()
    try:
        yield Memory()
    finally:
        tracemalloc.stop()


async def shows(sets: AsyncIterator[NodeSet], least: int, most: int) -> None:
    async with asyncio.timeout(PATIENCE):
        async for nodes in sets:
            if least <= len(nodes) <= most:
                return


def hold(grown: int, at_peak: int) -> None:
    assert at_peak > BAR // 2, f"the attack was none: {at_peak >> 10} KB"
    assert grown < BAR, f"{grown >> 10} KB are kept"


async def test_registry_kubernetes(memory: Memory) -> None:
    async with FakeKubeApi() as api:
        api.create(labelled("good", "10.0.0.1"))
        async with kubernetes(api.url) as registry, aclosing(registry.watch("greeter")) as sets:
            await shows(sets, 1, 1)
            before = memory.kept()
            for number in range(FLOOD):
                api.create(recorded(f"evil-{number}", f"10.6.0.{number}", hostile(number)))
                api.create(recorded(f"bad-{number}", f"10.7.0.{number}", "{" + "x" * 200_000))
            await shows(sets, FLOOD, 10_000)
            peak = memory.kept() - before
            for number in range(FLOOD):
                api.delete(f"evil-{number}")
                api.delete(f"bad-{number}")
            await shows(sets, 1, 1)
            hold(memory.kept() - before, peak)


async def test_registry_endpointslice(memory: Memory) -> None:
    async with FakeKubeApi() as api:
        api.create(endpoint_slice("good", endpoint("10.0.0.1"), uid="good"))
        config = load({"registry_address": [api.url]}, environ={})
        registry = EndpointSliceRegistry(config, environ={"POD_NAMESPACE": "default"}, timing=QUICK)
        async with registry, aclosing(registry.watch("greeter")) as sets:
            await shows(sets, 1, 1)
            before = memory.kept()
            for number in range(FLOOD):
                many = [
                    endpoint(f"10.6.{number}.{one}", zone=f"z{number}-{one}" * 10, pod=f"evil-{number}-{one}")
                    for one in range(200)
                ]
                api.create(endpoint_slice(f"evil-{number}", *many, uid=f"evil-{number}"))
            await shows(sets, 200 * FLOOD, 10_000)
            peak = memory.kept() - before
            for number in range(FLOOD):
                api.delete(f"evil-{number}", plural="endpointslices")
            await shows(sets, 1, 1)
            hold(memory.kept() - before, peak)


async def test_registry_etcd(memory: Memory, tmp_path: Path) -> None:
    with Etcd(tmp_path) as etcd:
        good = json.dumps({"name": "greeter", "nodes": [{"id": "good", "address": "10.0.0.1:80"}]})
        etcd.put("/micro/registry/greeter/good", good)
        async with etcd_registry(etcd.address) as registry, aclosing(registry.watch("greeter")) as sets:
            await shows(sets, 1, 1)
            before = memory.kept()
            for number in range(FLOOD):
                await asyncio.to_thread(etcd.put, f"/micro/registry/greeter/e{number}", hostile(number))
                await asyncio.to_thread(etcd.put, f"/micro/registry/greeter/b{number}", "{" + "x" * 200_000)
            await shows(sets, 8 * FLOOD, 10_000)
            peak = memory.kept() - before
            for number in range(FLOOD):
                await asyncio.to_thread(etcd.delete, f"/micro/registry/greeter/e{number}")
                await asyncio.to_thread(etcd.delete, f"/micro/registry/greeter/b{number}")
            await shows(sets, 1, 1)
            hold(memory.kept() - before, peak)


async def test_registry_local(memory: Memory, registry_folder: str) -> None:
    folder = Folder(registry_folder)
    config = load({"registry_address": [registry_folder]}, environ={})
    registry: Registry = LocalRegistry(config)
    async with registry, aclosing(registry.watch("greeter")) as sets:
        await registry.register(Node("good", "10.0.0.1:80", "greeter"))
        await shows(sets, 1, 1)
        before = memory.kept()
        held = []
        for number in range(20 * FLOOD):
            metadata = {f"{number}-{n}": "x" * 20 for n in range(40)}
            evil = Node(f"evil-{number}", f"10.6.0.1:{1 + number}", "greeter", f"{number}" * 250, metadata)
            held.append(NodeFile.create(folder, evil))
        del evil, metadata
        await shows(sets, 20 * FLOOD, 10_000)
        peak = memory.kept() - before
        for one in held:
            one.remove()
        held.clear()
        del one
        await shows(sets, 1, 1)
        hold(memory.kept() - before, peak)


async def test_registry_mdns(memory: Memory) -> None:
    port = mdns_support.free_port()
    timing = MdnsTiming(quiet=0.05, empty=0.3, answer=0.8, first=0.2, longest=0.4, unanswered=2)
    async with mdns_support.make(port, timing=timing) as registry, mdns_support.peer(port) as speaker:
        await registry.register(mdns_support.node(1))
        async with aclosing(registry.watch("greeter")) as sets:
            await shows(sets, 1, 1)
            before = memory.kept()
            # As many as fit into the kernel's buffer.
            for number in range(2, 62):
                document = {
                    "Service": "greeter",
                    "Version": f"{number}" * 100,
                    "Metadata": {f"{number}-{n}": "x" * 20 for n in range(120)},
                }
                speaker.tell(mdns_support.said(number, document=document))
            await shows(sets, 40, 61)
            peak = memory.kept() - before
            # They answer no question, so they are gone.
            await shows(sets, 1, 1)
            hold(memory.kept() - before, peak)
