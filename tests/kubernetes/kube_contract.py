"""The contract suite for the registries of a cluster, whichever API server they talk to."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from pymicro.kubernetes.api.reflector import ReflectorTiming
from pymicro.kubernetes.pods import KubernetesRegistry, reader
from pymicro.kubernetes.slices import EndpointSliceRegistry
from pymicro.nodes.node import Node
from pymicro.nodes.record import MOST_NODES
from pymicro.settings.config import load
from pymicro.testing.registry import RegistryContract

__all__ = ["QUICK", "EndpointSliceContract", "KubernetesContract", "kubernetes"]

# The API server of a test comes back within a second, not within half a minute.
QUICK = ReflectorTiming(backoff_initial=0.05, backoff_maximum=0.2)


def kubernetes(
    address: str, pod: str = "", *, namespace: str = "default", ip: str = "", **settings: Any
) -> KubernetesRegistry:
    """A registry as the process in `pod` has it; outside any pod if there is none."""
    environ = {"POD_NAME": pod, "POD_NAMESPACE": namespace, "POD_IP": ip}
    config = load({"registry_address": [address], **settings}, environ={})
    return KubernetesRegistry(config, environ=environ, timing=QUICK)


class KubernetesContract(RegistryContract):
    """Each registry is the one of a process in a pod of its own.

    The suite's nodes are at 127.0.0.1, so that is the pods' IP.

    Attributes:
        address: The setting `registry_address`.
        namespace: Where the pods are.
        pods: Names of Ready pods with the IP 127.0.0.1, which nobody else uses: as
            many as a test makes registries (three, and one more with an owner).
    """

    # Those that labels can spell: san() leaves them a letter or digit at the end.
    names = ("greeter", "Greeter", "größe", "go.micro.srv.x", "a b/c")

    address: str
    namespace: str
    pods: list[str]

    @pytest.fixture(autouse=True)
    def _many_nodes_of_a_pod(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The suite registers hundreds of nodes from one process, so from one pod."""
        monkeypatch.setattr(reader, "MOST_NODES_OF_POD", MOST_NODES)
        monkeypatch.setattr(KubernetesRegistry, "_one_writer", False)

    async def lose(self, pod: str) -> None:
        """What kubelet does when the process in `pod` is dead: the pod is no longer Ready."""
        raise NotImplementedError

    def make(self) -> KubernetesRegistry:
        return self.of(self.pods.pop())

    def of(self, pod: str) -> KubernetesRegistry:
        return kubernetes(
            self.address, pod, namespace=self.namespace, ip="127.0.0.1", registry_advertise="patch"
        )

    @contextlib.asynccontextmanager
    async def owner(self, node: Node) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        pod = self.pods.pop()

        async def kill() -> None:
            await self.lose(pod)

        async with self.of(pod) as registry:
            await registry.register(node)
            yield kill


class EndpointSliceContract(RegistryContract):
    """Attributes:
    address: The setting `registry_address`.
    namespace: Where the slices of a Service `greeter` with the nodes `listed` are.
    """

    no_register = "it reads what Kubernetes' own controller writes"
    no_crash = "kubelet and that controller tell that a pod is gone"
    no_outage = "an outage of the API server is the registry kubernetes' own test; they share the watch"

    address: str
    namespace: str

    def make(self) -> EndpointSliceRegistry:
        config = load({"registry_address": [self.address]}, environ={})
        return EndpointSliceRegistry(config, environ={"POD_NAMESPACE": self.namespace}, timing=QUICK)
