"""Registry `kubernetes`: the live pods of a cluster, with no server of our own.

`reader` makes nodes of a pod, `own_pod` looks at our own pod, `publisher` patches it,
`diagnosis` is what `pymicro doctor` says; this module is the registry over them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.base.findings import Finding, Level
from pymicro.base.loggers import logger
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.query import ObjectQuery
from pymicro.kubernetes.api.reflector import ReflectorTiming
from pymicro.kubernetes.api.resource import PODS
from pymicro.kubernetes.api.split import Split
from pymicro.kubernetes.cluster.checks import check_access, check_cluster
from pymicro.kubernetes.cluster.neighbours import Common, SharingRules
from pymicro.kubernetes.cluster.registry import ClusterRegistry
from pymicro.kubernetes.cluster.wanted import Wanted
from pymicro.kubernetes.pods.diagnosis import DiagnosedPod, findings, is_kin, kin_selectors, look
from pymicro.kubernetes.pods.own_pod import OwnPod, own_address, own_pod
from pymicro.kubernetes.pods.publisher import PodPublisher
from pymicro.kubernetes.pods.reader import PodReader, selector_keys, services_of
from pymicro.nodes.keys import SERVICE, TYPE_LABEL, label_problem, selector_key
from pymicro.nodes.node import Node

if TYPE_CHECKING:
    from pymicro.settings.config import Config

__all__ = ["KubernetesRegistry"]

log = logger("pymicro.registry.kubernetes")

# What has ended has no nodes, and the pods of a CronJob stay for days.
_NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed"

# Seconds to take back the rest at the end; the pod goes away anyway.
_WITHDRAW_TIMEOUT = 5.0


class KubernetesRegistry(ClusterRegistry):
    """Nodes are the Ready pods, found by go-micro's labels and watched through the API server.

    Readers need `list` and `watch` of pods. `registry_advertise` says how the own node is
    published. `labels`: the pod template has the labels, and no rights are needed. `patch`:
    we write onto our own pod, as go-micro does. `auto`: by labels if the pod has them or we
    may not look at it, else by a patch. `none`: not at all.

    Args:
        config: `registry_address` names the cluster, `registry_namespace` the namespaces
            to look in.
        environ: The pod's environment: POD_NAME, POD_NAMESPACE, POD_IP.
        timing: For the reflectors; tests pass their own.
        sharing: When services share a watch; tests pass their own.
    """

    name = "kubernetes"
    _one_writer = True

    def __init__(
        self,
        config: Config,
        *,
        environ: Mapping[str, str] | None = None,
        timing: ReflectorTiming | None = None,
        sharing: SharingRules | None = None,
    ) -> None:
        super().__init__(config, environ=environ, timing=timing, sharing=sharing)
        pod = OwnPod(self._environ, lambda: self._client, self._find_pod)
        self._publisher = PodPublisher(config.registry_advertise, lambda: self._client, pod)

    def _name_problem(self, service: str) -> str:
        return label_problem(service)

    def _want(self, service: str, namespaces: Sequence[str | None]) -> Sequence[Wanted]:
        key = selector_key(service)
        return [
            Wanted(service, ObjectQuery(PODS, namespace, f"{key}={SERVICE}"), key, PodReader(service))
            for namespace in namespaces
        ]

    def _unite(self, wanted: Sequence[Wanted]) -> Common:
        """A watch of all pods of the namespace that have not ended.

        Each service has a label key of its own, and a selector cannot say "this key or that one".
        All pods of go-micro's and of `pymicro manifest` have `micro.mu/type: service` in common,
        but the label of its service alone makes a pod count too. If a shared watch selected by
        the type, such a pod would be there for clients of few services and gone for those of
        many. So it selects by nothing that a user may have left out; `SharingRules.foreign`
        bounds what that brings in vain.
        """
        query = ObjectQuery(PODS, wanted[0].query.namespace, fields=_NOT_ENDED)
        return Common(query, Split(selector_keys, frozenset(one.part for one in wanted)), exact=False)

    def _written(self, service: str) -> int:
        return self._publisher.written.get(service, 0)

    async def _services_in(self, namespace: str | None) -> set[str]:
        def read(pod: Mapping[str, Any]) -> list[str]:
            return [name for name in services_of(pod) if PodReader(name).read(pod).nodes]

        found = await self._list(PODS, namespace, read, labels=f"{TYPE_LABEL}={SERVICE}")
        return {name for names in found for name in names}

    # Publishing

    def advertised_host(self) -> str:
        """The pod's IP."""
        return own_address(self._environ)

    async def register(self, node: Node) -> None:
        """Publish `node` as `registry_advertise` says, or repair what somebody changed of it.

        Raises:
            RegistryError: The API server refused or did not answer.
            ConfigError: The node cannot be published: its name is no label, its address is
                not the pod's, or the template contradicts it.
        """
        self._opened()
        try:
            await self._publisher.publish(node)
        except ConfigError as exc:
            raise ConfigError(self._explain(exc, node.service)) from exc
        except (KubeError, RegistryError) as exc:
            raise RegistryError(self._explain(exc, node.service)) from exc

    async def deregister(self, node: Node) -> None:
        """Take back what we wrote onto the pod; labels of the template stay.

        Raises:
            RegistryError: The API server refused or did not answer.
        """
        try:
            await self._publisher.withdraw(node)
        except (KubeError, ConfigError) as exc:
            raise RegistryError(self._explain(exc, node.service)) from exc

    async def _withdraw(self) -> None:
        try:
            async with asyncio.timeout(_WITHDRAW_TIMEOUT):
                for node in self._publisher.nodes:
                    await self.deregister(node)
        except (RegistryError, TimeoutError) as exc:
            why = str(exc) or "no answer in time"
            log.warning("what was registered could not all be taken back: %s", why)

    async def _find_pod(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        # We list instead of get: that needs no right that watching does not need.
        pods = await self._list(PODS, namespace, lambda pod: pod, fields=f"metadata.name={name}")
        return pods[0] if pods else None

    # Diagnosis

    async def diagnose(self, service: str) -> AsyncIterator[Finding]:
        """Why `service` is found or not: credentials, rights, and each of its pods."""
        async for finding in check_cluster(self._client, self._environ):
            yield finding
        if finding.level == "problem":
            return
        cluster = await self._client.find()
        namespaces = await self._namespaces()
        refused = False
        for namespace in namespaces:
            async for finding in check_access(self._client, PODS, namespace, ("list", "watch")):
                refused = refused or finding.level == "problem"
                yield finding
        mode, pod = self._config.registry_advertise, own_pod(self._environ)
        if pod and mode in ("auto", "patch"):
            level: Level = "problem" if mode == "patch" else "note"
            own = cluster.namespace
            async for finding in check_access(self._client, PODS, own, ("patch",), name=pod, level=level):
                yield finding
        if not service:
            return
        if problem := label_problem(service):
            yield Finding("name", "problem", problem, "give the service another name")
            return
        if refused:
            return
        try:
            labelled, kin = await self._look(service, namespaces)
        except KubeError as exc:
            yield Finding("pods", "problem", str(exc))
            return
        for finding in findings(service, namespaces, labelled, kin):
            yield finding

    async def _look(
        self, service: str, namespaces: Sequence[str | None]
    ) -> tuple[list[DiagnosedPod], list[DiagnosedPod]]:
        """Pods with the label, and pods without it that look as if they should have it."""
        labelled: list[DiagnosedPod] = []
        kin: dict[str, DiagnosedPod] = {}

        def read_kin(pod: Mapping[str, Any]) -> DiagnosedPod | None:
            return look(pod, service) if is_kin(pod, service) else None

        for namespace in namespaces:
            labels = f"{selector_key(service)}={SERVICE}"
            labelled += await self._list(PODS, namespace, lambda pod: look(pod, service), labels=labels)
            for labels in kin_selectors(service):
                for one in await self._list(PODS, namespace, read_kin, labels=labels):
                    if one is not None and one.reading.why not in ("terminating", "finished"):
                        kin[one.uid] = one
        return labelled, list(kin.values())
