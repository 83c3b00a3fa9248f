"""At most 20 lines and 64 KB of log a minute for each kind, whatever strangers write."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import aclosing
from pathlib import Path

import pytest

from pymicro.discovery.registries.local import LocalRegistry
from pymicro.discovery.registries.local.folder import Folder, NodeFile
from pymicro.nodes.node import Node
from pymicro.settings.config import load
from pymicro.testing.waiting import expect, first
from tests.discovery.registries import mdns_support
from tests.discovery.registries.etcd_support import etcd_registry
from tests.etcd_server import Etcd
from tests.fakes.kube_api import FakeKubeApi
from tests.kubernetes.kube_contract import kubernetes
from tests.kubernetes.pods.test_faults_pods import labelled, recorded, watching

FLOOD = 100
LINES, BYTES = 20, 64 << 10


@pytest.fixture(autouse=True)
def _all_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pymicro")


def nonsense(number: int) -> str:
    return '{"name":"greeter","version":"' + "v" * (600 + number) + '"}'


def quiet(caplog: pytest.LogCaptureFixture) -> None:
    formatter = logging.Formatter()
    said = Counter(record.msg for record in caplog.records)
    size = sum(len(formatter.format(record).encode()) for record in caplog.records)
    assert said, "nobody was told"
    assert max(said.values()) <= LINES, said.most_common(3)
    assert size <= BYTES


async def test_registry_kubernetes(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeKubeApi() as api:
        for number in range(FLOOD):
            api.create(recorded(f"evil-{number}", f"10.6.0.{number}", nonsense(number)))
        api.create(labelled("good", "10.0.0.1"))
        async with kubernetes(api.url) as registry, watching(registry) as seen:
            await seen.shows("10.0.0.1")
            # It goes on, one after the other.
            for number in range(FLOOD):
                changed = {"micro.mu/service-greeter": nonsense(FLOOD + number)}
                api.patch("evil-0", {"metadata": {"annotations": changed}})
            api.create(labelled("later", "10.0.0.2"))
            await seen.shows("10.0.0.1", "10.0.0.2")
    quiet(caplog)


async def test_registry_etcd(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Etcd(tmp_path) as etcd:
        for number in range(FLOOD):
            await asyncio.to_thread(etcd.put, f"/micro/registry/greeter/evil-{number}", nonsense(number))
        async with etcd_registry(etcd.address) as registry, aclosing(registry.watch("greeter")) as sets:
            assert not await first(sets, within=15)
            for number in range(FLOOD):
                await asyncio.to_thread(etcd.put, "/micro/registry/greeter/evil", nonsense(FLOOD + number))
            good = '{"name":"greeter","nodes":[{"id":"good","address":"10.0.0.1:80"}]}'
            await asyncio.to_thread(etcd.put, "/micro/registry/greeter/good", good)
            await expect(sets, [Node("good", "10.0.0.1:80", "greeter")], within=15)
    quiet(caplog)


def spoil(folder: Path) -> None:
    for number, file in enumerate(folder.iterdir()):
        file.write_text(nonsense(number))


async def test_registry_local(registry_folder: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = Folder(registry_folder)
    held = [NodeFile.create(folder, Node(f"evil-{one}", "10.0.0.1:80", "greeter")) for one in range(FLOOD)]
    spoil(Path(registry_folder))
    config = load({"registry_address": [registry_folder]}, environ={})
    async with LocalRegistry(config) as registry, aclosing(registry.watch("greeter")) as sets:
        assert not await first(sets, within=15)
    for one in held:
        one.remove()
    quiet(caplog)


async def test_registry_mdns(caplog: pytest.LogCaptureFixture) -> None:
    port = mdns_support.free_port()
    async with (
        mdns_support.make(port) as registry,
        mdns_support.peer(port) as speaker,
        aclosing(registry.watch("greeter")) as sets,
    ):
        await first(sets, within=15)
        for number in range(FLOOD):
            document = {"Service": "greeter", "Version": "v" * (600 + number)}
            speaker.tell(mdns_support.said(number, document=document))
        # Nodes that are good, and gone soon after.
        speaker.tell(*(mdns_support.said(number) for number in range(FLOOD, FLOOD + 50)))
        async with asyncio.timeout(30):
            while len(await anext(sets)) < 40:
                pass
            while await anext(sets):
                pass
    quiet(caplog)
