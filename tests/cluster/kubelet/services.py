"""What Services and EndpointSlices say, as the name server and the proxy need it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tests.cluster.kubelet.api import Api, Object

DOMAIN = "cluster.local"

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Backends:
    """One Service.

    Attributes:
        name: `greeter.default.svc.cluster.local`.
        ip: Its ClusterIP; empty if it is headless.
        ips: Addresses of all ready pods.
        ports: For each of its ports, where a connection may go.
    """

    name: str
    ip: str
    ips: frozenset[str]
    ports: Mapping[int, frozenset[Address]]


def backends(service: Object, slices: Iterable[Object]) -> Backends:
    """A Service with its slices."""
    meta, spec = service["metadata"], service["spec"]
    ips: set[str] = set()
    ports: dict[int, set[Address]] = {port["port"]: set() for port in spec.get("ports", [])}
    for piece in slices:
        ready = {
            address
            for endpoint in piece.get("endpoints") or []
            if endpoint.get("conditions", {}).get("ready", True)
            for address in endpoint["addresses"]
        }
        ips |= ready
        numbers = {port.get("name", ""): port["port"] for port in piece.get("ports") or []}
        for port in spec.get("ports", []):
            number = numbers.get(port.get("name", ""))
            if number is not None:
                ports[port["port"]] |= {(address, number) for address in ready}
    return Backends(
        name=f"{meta['name']}.{meta['namespace']}.svc.{DOMAIN}",
        ip="" if spec.get("clusterIP") in (None, "None") else spec["clusterIP"],
        ips=frozenset(ips),
        ports={port: frozenset(addresses) for port, addresses in ports.items()},
    )


class Services:
    """All Services of the cluster, kept up to date by `run`.

    Args:
        api: Where they are watched.
        changed: Called with all of them after each change.
    """

    def __init__(self, api: Api, changed: Callable[[list[Backends]], None]) -> None:
        self._api = api
        self._changed = changed
        self._services: dict[str, Object] = {}
        self._slices: dict[str, Object] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow("/api/v1/services", self._services))
            group.create_task(self._follow("/apis/discovery.k8s.io/v1/endpointslices", self._slices))

    async def _follow(self, path: str, kept: dict[str, Object]) -> None:
        async for objects in self._api.follow(path):
            kept.clear()
            kept.update(objects)
            self._changed([backends(service, self._of(service)) for service in self._services.values()])

    def _of(self, service: Object) -> list[Object]:
        meta = service["metadata"]
        return [
            piece
            for piece in self._slices.values()
            if piece["metadata"]["namespace"] == meta["namespace"]
            and piece["metadata"].get("labels", {}).get("kubernetes.io/service-name") == meta["name"]
        ]
