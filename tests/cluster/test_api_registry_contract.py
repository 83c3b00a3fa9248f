"""The registries of a cluster pass the contract suite on a real API server too."""

from __future__ import annotations

import asyncio

import pytest

from pymicro.kubernetes.slices.reader import HOSTNAME
from pymicro.nodes.node import Node
from pymicro.nodes.wellknown import ZONE
from tests.cluster import pods
from tests.cluster.plane import ControlPlane
from tests.fakes.pods import pod
from tests.kubernetes.kube_contract import EndpointSliceContract, KubernetesContract

pytestmark = pytest.mark.cluster


class TestKubernetes(KubernetesContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.address = f"kubeconfig={plane.kubeconfig}"
        self.namespace = namespace
        self.objects = {
            name: pods.create(plane.api, pod(name, "127.0.0.1", namespace=namespace, ports={}))
            for name in ("pod-1", "pod-2", "pod-3", "pod-4")
        }
        self.pods = list(self.objects)

    async def lose(self, pod: str) -> None:
        await asyncio.to_thread(pods.set_ready, self.plane.api, self.objects[pod], False)

    async def break_source(self) -> None:
        await asyncio.to_thread(self.plane.stop_apiserver)

    async def mend_source(self) -> None:
        await asyncio.to_thread(self.plane.start_apiserver)


class TestEndpointSlice(EndpointSliceContract):
    """Of slices that Kubernetes' own controller makes for a Service."""

    @pytest.fixture(autouse=True)
    def _cluster(self, controlled: ControlPlane) -> None:
        self.address = f"kubeconfig={controlled.kubeconfig}"
        self.namespace = namespace = controlled.namespace()
        controlled.node("node-a", zone="zone-1")
        spec = {"selector": {"app": "greeter"}, "ports": [{"port": 8080}], "clusterIP": "None"}
        service = {"metadata": {"name": "greeter"}, "spec": spec}
        controlled.api.post(f"/api/v1/namespaces/{namespace}/services", service)
        made = [
            pods.create(
                controlled.api,
                pod(f"greeter-{number}", f"10.0.0.{number}", namespace=namespace, labels={"app": "greeter"}),
            )
            for number in (1, 2, 3)
        ]
        self.listed = tuple(
            Node(
                one["metadata"]["uid"],
                f"{one['status']['podIP']}:8080",
                "greeter",
                "",
                {ZONE: "zone-1", HOSTNAME: "node-a"},
            )
            for one in made
        )
        controlled.wait_for_endpoints(namespace, "greeter", len(made))
