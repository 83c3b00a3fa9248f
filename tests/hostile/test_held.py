"""No input under 256 KB holds the event loop for more than 20 ms: registries, selectors, servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pymicro.base.errors import RegistryError
from pymicro.discovery.registries.local import LocalRegistry
from pymicro.discovery.registries.local.folder import Folder, NodeFile
from pymicro.kubernetes.slices import EndpointSliceRegistry
from pymicro.nodes.node import Node
from pymicro.settings.config import load
from pymicro.testing.waiting import closed, first
from tests.discovery.registries import mdns_support
from tests.discovery.registries.etcd_support import etcd_registry
from tests.discovery.selectors.name_server import NameServer, serving
from tests.discovery.selectors.test_selector_dns import make as make_selector
from tests.etcd_server import Etcd
from tests.fakes.kube_api import FakeKubeApi
from tests.fuzz.findings import EXPENSIVE, FINDINGS
from tests.heap import frozen_heap
from tests.hostile.steps import Steps, elsewhere, held_briefly, steps
from tests.kubernetes.kube_contract import QUICK, kubernetes
from tests.kubernetes.pods.test_faults_pods import labelled, recorded, watching
from tests.serving.gomicro_caller import JSON, headers
from tests.serving.serving import ZOO
from tests.serving.serving import serving as server_of
from tests.serving.test_dispatch import Keeper

PATIENCE = 15.0


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What other tests left behind is not looked through in the steps of this one."""
    with frozen_heap():
        yield


def renamed(record: str, service: str = "greeter") -> str:
    return record.replace('"name":"s"', f'"name":"{service}"').replace('"name": "s"', f'"name":"{service}"')


@pytest.mark.parametrize("what", EXPENSIVE)
async def test_registry_kubernetes(what: str) -> None:
    async with elsewhere(FakeKubeApi) as (api, there):
        await there(api.create, recorded("evil", "10.0.0.1", renamed(EXPENSIVE[what])))
        await there(api.create, labelled("good", "10.0.0.2"))

        async def attack() -> Steps:
            async with kubernetes(api.url) as registry:
                await registry.services()  # the certificates to trust are read once, in 20 ms
                with steps() as found:
                    async with watching(registry) as seen:
                        await seen.until(lambda: "10.0.0.2:8080" in (seen.addresses or ()), "the good one")
                        # And once more as an event.
                        await there(api.patch, "evil", {"metadata": {"annotations": {"turn": "1"}}})
                        before = len(seen.told)
                        await there(api.create, labelled("later", "10.0.0.3"))
                        await seen.until(lambda: len(seen.told) > before, "the later one")
            await there(api.delete, "later")
            return found

        await held_briefly(attack)


@pytest.mark.parametrize("what", [what for what, _ in FINDINGS["pod"]])
async def test_registry_kubernetes_with_odd_pods(what: str) -> None:
    async with elsewhere(FakeKubeApi) as (api, there):
        odd = dict(FINDINGS["pod"])[what]
        odd["metadata"] = {**odd["metadata"], "name": "evil"}
        await there(api.create, odd)
        await there(api.create, labelled("good", "10.0.0.2"))

        async def attack() -> Steps:
            async with kubernetes(api.url) as registry:
                await registry.services()
                with steps() as found:
                    async with watching(registry) as seen:
                        await seen.until(lambda: "10.0.0.2:8080" in (seen.addresses or ()), "the good one")
                        assert "greeter" in await registry.services()
            return found

        await held_briefly(attack)


async def test_registry_endpointslice() -> None:
    async with elsewhere(FakeKubeApi) as (api, there):
        for number, (_, odd) in enumerate(FINDINGS["endpoint slice"]):
            await there(api.create, {**odd, "metadata": {**odd["metadata"], "name": f"greeter-{number}"}})

        async def attack() -> Steps:
            config = load({"registry_address": [api.url]}, environ={})
            registry = EndpointSliceRegistry(config, environ={"POD_NAMESPACE": "default"}, timing=QUICK)
            async with registry:
                await registry.services()
                with steps() as found:
                    sets = registry.watch("greeter")
                    await first(sets, within=PATIENCE)
                    await closed(sets)
            return found

        await held_briefly(attack)


async def test_registry_etcd(tmp_path: Path) -> None:
    with Etcd(tmp_path) as etcd:

        async def attack() -> Steps:
            async with etcd_registry(etcd.address) as registry:
                with steps() as found:
                    sets = registry.watch("greeter")
                    await first(sets, within=PATIENCE)
                    await closed(sets)
            return found

        for record in EXPENSIVE.values():
            await asyncio.to_thread(etcd.put, "/micro/registry/greeter/evil", renamed(record))
            await held_briefly(attack)


async def test_registry_local(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    held = [
        NodeFile.create(Folder(str(folder)), Node(f"n{number}", "127.0.0.1:80", "greeter"))
        for number in range(len(EXPENSIVE))
    ]
    for file, record in zip(sorted(folder.iterdir()), EXPENSIVE.values(), strict=True):
        said = json.loads(record) if what_is_json(record) else {}
        document = {"id": "x", "address": "127.0.0.1:80", "service": "greeter", **said}
        file.write_text(json.dumps(document, separators=(",", ":")))

    async def attack() -> Steps:
        async with LocalRegistry(load({"registry_address": [str(folder)]}, environ={})) as registry:
            with steps() as found:
                sets = registry.watch("greeter")
                await first(sets, within=PATIENCE)
                await closed(sets)
        return found

    try:
        await held_briefly(attack)
    finally:
        for one in held:
            one.abandon()


def what_is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


async def test_registry_mdns(monkeypatch: pytest.MonkeyPatch) -> None:
    # The neighbour sends 256 KB at once: packets with many nodes, whose texts are long to read.
    texts = [text for _, text in FINDINGS["mdns text"] if len(text) < 2000]
    packets = [packet for _, packet in FINDINGS["mdns packet"]]
    for turn in range(16):
        records = []
        for number in range(8):
            name = f"evil-{turn}-{number}.greeter.micro."
            said = texts[number % len(texts)]
            strings = [said[at : at + 255] for at in range(0, len(said), 255)]
            records += [
                mdns_support.record(name, "SRV", f"10 1 {1000 + number} host."),
                mdns_support.text_record(name, strings),
            ]
        packets.append(mdns_support.response(*records, mdns_support.record("host.", "A", "127.0.0.1")))
    port = mdns_support.free_port()

    async def attack() -> Steps:
        async with mdns_support.make(port) as registry, mdns_support.peer(port) as speaker:
            with steps() as found:
                sets = registry.watch("greeter")
                watching_ = asyncio.ensure_future(first(sets, within=PATIENCE))
                asked = await speaker.group.next_question()
                for packet in packets:
                    speaker.own.transport.sendto(packet, asked.source)
                speaker.tell(mdns_support.said(7), to=asked.source)
                nodes = await watching_
                async with asyncio.timeout(PATIENCE):
                    while "greeter-7" not in {node.id for node in nodes}:
                        nodes = await anext(sets)
                await closed(sets)
        return found

    await held_briefly(attack)


@asynccontextmanager
async def long_names() -> AsyncIterator[NameServer]:
    """A name server whose answer is as long to read as can be."""
    targets = ".".join(["a"] * 110)
    records = [f"1 0 {80 + number} {number}.{targets}." for number in range(120)]
    async with serving({("_greeter._tcp.shop.test", "SRV"): records}) as server:
        for number in range(120):
            server.answers[f"{number}.{targets}", "A"] = ["10.0.0.1"]
        yield server


async def test_selector_dns() -> None:
    async with elsewhere(long_names) as (server, _):

        async def attack() -> Steps:
            selector = make_selector(
                environ={"DNS_SELECTOR_DOMAIN_NAME": "shop.test"}, resolver=server.resolver
            )
            with steps() as found:
                sets = selector.watch("greeter")
                with contextlib.suppress(RegistryError):  # it may take longer than anybody waits
                    await first(sets, within=PATIENCE)
                await closed(sets)
            return found

        await held_briefly(attack)


async def test_a_request_in_json() -> None:
    young = ",".join(["{}"] * (80 << 10))
    request = f'{{"name":"x","young":[{young}]}}'.encode()
    assert len(request) < 256 << 10
    async with server_of(Keeper()) as running:

        async def attack() -> Steps:
            with steps() as found:
                call = running.channel.unary_unary(f"{ZOO}/Import")(
                    request, metadata=headers(JSON, "100000000000")
                )
                assert json.loads(await call)["name"] == "X"
                call = running.channel.stream_unary(f"{ZOO}/Count")(
                    iter([request]), metadata=headers(JSON, "100000000000")
                )
                assert json.loads(await call)["count"] == 1
            return found

        await held_briefly(attack)
