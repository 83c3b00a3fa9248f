"""Registry `endpointslice` on the slices that Kubernetes' own controller makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pymicro.kubernetes.api.timing import ReflectorTiming
from pymicro.kubernetes.slices import EndpointSliceRegistry
from pymicro.settings.config import load
from tests.cluster import pods
from tests.cluster.plane import ControlPlane
from tests.cluster.seeing import seeing
from tests.fakes.pods import pod

pytestmark = pytest.mark.cluster


class Shop:
    """A namespace with a Service `greeter`, and an account that may read its slices."""

    def __init__(self, plane: ControlPlane, folder: Path, **service: Any) -> None:
        self.plane = plane
        self.namespace = plane.namespace()
        plane.node("node-a", zone="zone-1")
        plane.allow(
            self.namespace,
            "default",
            verbs="list,watch",
            resource="endpointslices",
            group="discovery.k8s.io",
        )
        spec = {"selector": {"app": "greeter"}, **service}
        path = f"/api/v1/namespaces/{self.namespace}/services"
        plane.api.post(path, {"metadata": {"name": "greeter"}, "spec": spec})
        token = {"token": plane.token_for(self.namespace, "default")}
        self._kubeconfig = plane.kubeconfig_for(folder / "config", token, namespace=self.namespace)

    def registry(self) -> EndpointSliceRegistry:
        config = load({"registry_address": [f"kubeconfig={self._kubeconfig}"]}, environ={})
        return EndpointSliceRegistry(config, environ={}, timing=ReflectorTiming(backoff_maximum=2.0))

    def pod(self, name: str, ip: str, port: int = 8080) -> dict[str, Any]:
        document = pod(name, ip, namespace=self.namespace, labels={"app": "greeter"}, ports={"grpc": port})
        return pods.create(self.plane.api, document)


async def test_pods_come_become_unready_end_and_go(controlled: ControlPlane, tmp_path: Path) -> None:
    port = {"name": "grpc", "port": 80, "targetPort": "grpc"}
    shop = Shop(controlled, tmp_path, ports=[port])
    # Two numbers for one name: two slices of one Service.
    one, two = shop.pod("one", "10.0.0.1", 9001), shop.pod("two", "10.0.0.2", 9002)
    async with seeing(shop.registry()) as seen:
        await seen.see("10.0.0.1:9001", "10.0.0.2:9002")
        pods.set_ready(shop.plane.api, one, False)
        await seen.see("10.0.0.2:9002")
        pods.set_ready(shop.plane.api, one, True)
        await seen.see("10.0.0.1:9001", "10.0.0.2:9002")
        # With its grace of 30 s: it is terminating, and still serves.
        shop.plane.api.delete(pods.path(two))
        await seen.see("10.0.0.1:9001")
        pods.delete(shop.plane.api, one)
        # Nobody else is left.
        await seen.see("10.0.0.2:9002")
        pods.delete(shop.plane.api, two)
        await seen.see()
