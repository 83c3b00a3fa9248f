"""Many services over one watch of a namespace, on a real API server, with pods that change meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from pymicro.kubernetes.api.timing import ReflectorTiming
from pymicro.kubernetes.cluster.neighbours import SharingRules
from pymicro.kubernetes.pods import KubernetesRegistry
from pymicro.kubernetes.slices import EndpointSliceRegistry
from pymicro.settings.config import load
from tests.cluster import pods
from tests.cluster.plane import ControlPlane, until
from tests.cluster.relay import Relay
from tests.fakes.pods import pod
from tests.fakes.slices import endpoint, slice
from tests.kubernetes.cluster.histories import Histories

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def _choices(caplog: pytest.LogCaptureFixture) -> None:
    """A test that fails shows what was chosen, and why."""
    caplog.set_level("INFO", logger="pymicro")


MANY = [f"service-{number:02}" for number in range(30)]


class Mall:
    """Two namespaces of pods, each with an address that no other ever had, and a hop before the server."""

    def __init__(self, plane: ControlPlane, relay: Relay, folder: Path) -> None:
        self.plane = plane
        self.relay = relay
        self.namespaces = [plane.namespace(), plane.namespace()]
        path = folder / "kubeconfig"
        own = Path(plane.kubeconfig).read_text()
        path.write_text(own.replace(f":{plane.port}", f":{relay.port}"))
        self.address = f"kubeconfig={path}"
        self.made = 0

    def registry(self, **rules: Any) -> KubernetesRegistry:
        settings = {"registry_address": [self.address], "registry_namespace": self.namespaces}
        timing = ReflectorTiming(backoff_maximum=2.0)
        config = load(settings, environ={})
        return KubernetesRegistry(config, environ={}, timing=timing, sharing=SharingRules(**rules))

    def add(self, service: str, place: int = 0) -> tuple[str, dict[str, Any]]:
        """A pod with no label but that of its service: its address, and itself."""
        self.made += 1
        host = f"10.9.{self.made >> 8}.{self.made & 255}"
        document = pod(
            f"{service}-{self.made}",
            host,
            namespace=self.namespaces[place],
            labels={f"micro.mu/selector-{service}": "service"},
        )
        return host, pods.create(self.plane.api, document)


@pytest.fixture
async def mall(plane: ControlPlane, tmp_path: Path) -> AsyncIterator[Mall]:
    async with Relay(plane.host, plane.port) as relay:
        yield Mall(plane, relay, tmp_path)


async def test_thirty_services_in_two_namespaces_are_at_most_four_connections(
    mall: Mall, say: Callable[[str], None]
) -> None:
    hosts: dict[str, set[str]] = {}
    for service in MANY:
        found = [await asyncio.to_thread(mall.add, service, place) for place in (0, 1)]
        hosts[service] = {host for host, _ in found}
    async with Histories.of(mall.registry(), *MANY) as seen:
        for service in MANY:
            await seen.see(service, *hosts[service])
        # A moment longer than aiohttp keeps a connection for the next request.
        await until("few connections are left", lambda: mall.relay.connections <= 2, 30.0)
        say(f"30 services in 2 namespaces: {mall.relay.connections} connections, {mall.relay.most} at most")
        assert mall.relay.most <= 2 * (SharingRules().handful + 1) + 2
        host, _ = await asyncio.to_thread(mall.add, MANY[7], 1)
        await seen.see(MANY[7], *hosts[MANY[7]], host)
        # An outage is one for all, and mends for all.
        await mall.relay.cut()
        more = {service: (await asyncio.to_thread(mall.add, service))[0] for service in MANY[:6]}
        await mall.relay.mend()
        for service, other in more.items():
            await seen.see(service, *hosts[service], other)
        assert mall.relay.connections <= 4
        seen.check(*(host for group in hosts.values() for host in group))


async def test_pods_that_change_during_every_change_over_are_seen_and_none_comes_back(
    mall: Mall, say: Callable[[str], None]
) -> None:
    services = MANY[:12]
    present: dict[str, set[str]] = {}
    for service in services:
        present[service] = {(await asyncio.to_thread(mall.add, service))[0]}
    stay = {host for group in present.values() for host in group}
    changes = 0

    async def churn(own: list[str], stop: asyncio.Event) -> None:
        """Pods that come and go, as fast as the server takes it."""
        nonlocal changes
        living: list[tuple[str, str, dict[str, Any]]] = []
        while not stop.is_set() or living:
            if not stop.is_set():
                for service in own:
                    host, made = await asyncio.to_thread(mall.add, service, changes % 2)
                    present[service].add(host)
                    living.append((service, host, made))
                    changes += 1
            while living and (len(living) > 6 or stop.is_set()):
                service, host, made = living.pop(0)
                await asyncio.to_thread(pods.delete, mall.plane.api, made)
                present[service].discard(host)
                changes += 1

    stop = asyncio.Event()
    # Quick rules: ten change-overs, to the shared watch, to wider ones, and back.
    registry = mall.registry(handful=3, few=2, settle=0.05, quiet=0.2)
    async with Histories.of(registry, *services[:2]) as seen, asyncio.TaskGroup() as group:
        churning = [group.create_task(churn(services[start::3], stop)) for start in range(3)]
        tasks = []
        for service in services[2:]:
            tasks.append(seen.follow(service))
            # They come while pods change, each after some changes more.
            before = changes
            await until("pods change", lambda before=before: changes >= before + 12)  # type: ignore[misc]
        for task in tasks:
            task.cancel()
            await asyncio.wait([task])
        before = changes
        await until("pods change", lambda: changes >= before + 30)
        stop.set()
        await asyncio.wait(churning)
        for service in services[:2]:
            await seen.see(service, *present[service])
        sets = sum(map(len, seen.shown.values()))
        say(f"{changes} changes of pods during {len(services)} change-overs: {sets} sets, none with a gap")
        assert seen.errors() == []
        seen.check(*stay)


async def test_an_api_server_without_streaming_lists_shares_as_well(
    tmp_path: Path, say: Callable[[str], None]
) -> None:
    with ControlPlane(api_flags=["--feature-gates=WatchList=false"], controllers=()) as plane:
        async with Relay(plane.host, plane.port) as relay:
            mall = Mall(plane, relay, tmp_path)
            present = {}
            for service in MANY[:8]:
                present[service] = {(await asyncio.to_thread(mall.add, service))[0]}
            async with Histories.of(mall.registry(), *MANY[:8]) as seen:
                for service in MANY[:8]:
                    await seen.see(service, *present[service])
                for service in MANY[:8]:
                    present[service].add((await asyncio.to_thread(mall.add, service, 1))[0])
                for service in MANY[:8]:
                    await seen.see(service, *present[service])
                await until("few connections are left", lambda: relay.connections <= 2, 30.0)
                seen.check()


async def test_slices_of_thirty_services_come_over_one_connection(
    mall: Mall, say: Callable[[str], None]
) -> None:
    where = mall.namespaces[0]
    path = f"/apis/discovery.k8s.io/v1/namespaces/{where}/endpointslices"

    def make(service: str, host: str) -> None:
        mall.plane.api.post(
            path, slice(f"{service}-{host}", endpoint(host), service=service, namespace=where)
        )

    for number, service in enumerate([*MANY, "stranger"]):
        await asyncio.to_thread(make, service, f"10.8.0.{number}")
    config = load({"registry_address": [mall.address], "registry_namespace": [where]}, environ={})
    async with Histories.of(EndpointSliceRegistry(config, environ={}), *MANY) as seen:
        for number, service in enumerate(MANY):
            await seen.see(service, f"10.8.0.{number}")
        await until("one connection is left", lambda: mall.relay.connections <= 1, 30.0)
        await asyncio.to_thread(make, MANY[3], "10.8.1.3")
        await seen.see(MANY[3], "10.8.0.3", "10.8.1.3")
        seen.check()
        say(f"slices of 30 services: {mall.relay.connections} connection")
