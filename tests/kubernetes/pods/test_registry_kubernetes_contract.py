"""The registries of a cluster pass the contract suite, here on a fake API server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

import pytest

from pymicro.kubernetes.slices.reader import HOSTNAME
from pymicro.nodes.node import Node
from pymicro.nodes.wellknown import ZONE
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.pods import pod
from tests.fakes.slices import endpoint, slice
from tests.kubernetes.kube_contract import EndpointSliceContract, KubernetesContract


class TestKubernetes(KubernetesContract):
    namespace = "default"

    @pytest.fixture(autouse=True)
    async def _api(self) -> AsyncIterator[None]:
        async with FakeKubeApi() as self.api:
            self.address = self.api.url
            self.pods = [f"pod-{number}" for number in range(4)]
            for name in self.pods:
                self.api.create(pod(name, "127.0.0.1", ports={}))
            yield

    async def lose(self, pod: str) -> None:
        self.api.patch(pod, {"status": {"conditions": [{"type": "Ready", "status": "False"}]}})

    async def break_source(self) -> None:
        await self.api.stop()

    async def mend_source(self) -> None:
        await self.api.start()


class TestEndpointSlice(EndpointSliceContract):
    namespace = "default"
    listed: ClassVar[tuple[Node, ...]] = tuple(
        Node(f"uid-of-greeter-{number}", f"10.0.0.{number}:8080", "greeter", "", {ZONE: "a", HOSTNAME: "m"})
        for number in (1, 2, 3)
    )

    @pytest.fixture(autouse=True)
    async def _api(self) -> AsyncIterator[None]:
        async with FakeKubeApi() as self.api:
            self.address = self.api.url
            one, two, three = (
                endpoint(f"10.0.0.{number}", pod=f"greeter-{number}", zone="a", node="m")
                for number in (1, 2, 3)
            )
            self.api.create(slice("greeter-abc12", one, two))
            self.api.create(slice("greeter-xyz34", two, three))
            yield
