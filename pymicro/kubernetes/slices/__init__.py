"""Registry `endpointslice`: the endpoints of any Kubernetes Service, pymicro's or not; read only.

`reader` makes nodes of a slice, `diagnosis` is what `pymicro doctor` says; this module is
the registry over them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from pymicro.base.findings import Finding
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.query import ObjectQuery
from pymicro.kubernetes.api.resource import ENDPOINT_SLICES
from pymicro.kubernetes.api.split import Split
from pymicro.kubernetes.cluster.checks import check_access, check_cluster
from pymicro.kubernetes.cluster.neighbours import Common
from pymicro.kubernetes.cluster.registry import ClusterRegistry
from pymicro.kubernetes.cluster.wanted import Wanted
from pymicro.kubernetes.slices.diagnosis import findings, look
from pymicro.kubernetes.slices.reader import (
    SERVICE_LABEL,
    SliceReader,
    one_family,
    owner_of,
    owners_of,
    read_slice,
)
from pymicro.nodes.node import Node, NodeSet

__all__ = ["EndpointSliceRegistry"]

log = logger("pymicro.registry.endpointslice")

# Proxies before an API server take request lines of 8 KB (nginx) or more.
_LONGEST_SELECTOR = 4096

# RFC 1123 labels: a Service's name and a namespace's.
_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


class EndpointSliceRegistry(ClusterRegistry):
    """Nodes are the ready endpoints of a Kubernetes Service, `name` or `name.namespace`.

    Readers need `list` and `watch` of endpointslices (discovery.k8s.io). We call the
    Service's port named `grpc`, else one whose appProtocol says that it speaks gRPC, else
    its only port. A node carries zone, machine and hints in its metadata.

    Args:
        config: `registry_address` names the cluster; a Service without a namespace in its
            name is looked for in `registry_namespace`.
        environ: The pod's environment.
        timing: For the reflectors; tests pass their own.
        sharing: When services share a watch; tests pass their own.
    """

    name = "endpointslice"
    # Whether the log has said that nothing is published.
    _told = False

    def _name_problem(self, service: str) -> str:
        parts = service.split(".")
        if len(parts) <= 2 and all(map(_LABEL.fullmatch, parts)):
            return ""
        return (
            f"{excerpt(service)} is no name of a Kubernetes Service: name or name.namespace, "
            "each of lower-case letters, digits and dashes, 63 at most"
        )

    def _asked(self, service: str, namespaces: Sequence[str | None]) -> tuple[str, Sequence[str | None]]:
        """The Service's own name, and the namespaces to look in."""
        name, _, namespace = service.partition(".")
        return name, [namespace] if namespace else namespaces

    def _want(self, service: str, namespaces: Sequence[str | None]) -> Sequence[Wanted]:
        name, where = self._asked(service, namespaces)
        labels = f"{SERVICE_LABEL}={name}"
        return [
            Wanted(service, ObjectQuery(ENDPOINT_SLICES, one, labels), name, SliceReader(service))
            for one in where
        ]

    def _unite(self, wanted: Sequence[Wanted]) -> Common:
        """A watch of the slices of just these Services: the label's value is the Service's name.

        Past some hundred names the selector is too long for what may stand before an API server.
        Then it is a watch of all slices of Services in the namespace.
        """
        names = sorted({one.mark for one in wanted})
        labels = f"{SERVICE_LABEL} in ({','.join(names)})"
        exact = len(labels) <= _LONGEST_SELECTOR
        query = ObjectQuery(ENDPOINT_SLICES, wanted[0].query.namespace, labels if exact else SERVICE_LABEL)
        return Common(query, Split(owners_of, frozenset(one.part for one in wanted)), exact)

    def _refine(self, nodes: NodeSet) -> NodeSet:
        return one_family(super()._refine(nodes))

    async def _services_in(self, namespace: str | None) -> set[str]:
        def read(found: Mapping[str, Any]) -> str:
            name, own = owner_of(found)
            if namespace is None:  # in all namespaces, only the namespace tells two Services apart
                name = f"{name}.{own}"
            return name if read_slice(found, name).nodes else ""

        found = await self._list(ENDPOINT_SLICES, namespace, read, labels=SERVICE_LABEL)
        return {name for name in found if name}

    # Publishing

    def advertised_host(self) -> str:
        """127.0.0.1; nobody reads it, since this registry publishes nothing."""
        return "127.0.0.1"

    async def register(self, node: Node) -> None:
        """Publish nothing, and say so once: the Service's selector decides who belongs to it."""
        if not self._told:
            self._told = True
            log.info(
                "registry endpointslice publishes nothing: "
                "callers find %s if a Kubernetes Service selects its pod",
                node.service,
            )

    async def deregister(self, node: Node) -> None:
        """Do nothing: `register` published nothing."""

    # Diagnosis

    async def diagnose(self, service: str) -> AsyncIterator[Finding]:
        """Why `service` is found or not: credentials, rights, and each endpoint of its slices."""
        async for finding in check_cluster(self._client, self._environ):
            yield finding
        if finding.level == "problem":
            return
        if service and (problem := self._name_problem(service)):
            yield Finding("name", "problem", problem, "the registry kubernetes finds services of any name")
            return
        name, namespaces = self._asked(service, await self._namespaces())
        refused = False
        for namespace in namespaces:
            async for finding in check_access(self._client, ENDPOINT_SLICES, namespace, ("list", "watch")):
                refused = refused or finding.level == "problem"
                yield finding
        if refused or not service:
            return
        for namespace in namespaces:
            labels = f"{SERVICE_LABEL}={name}"
            try:
                slices = await self._list(
                    ENDPOINT_SLICES, namespace, lambda one: look(one, service), labels=labels
                )
            except KubeError as exc:
                yield Finding("slices", "problem", str(exc))
                return
            for finding in findings(service, namespace, slices):
                yield finding
