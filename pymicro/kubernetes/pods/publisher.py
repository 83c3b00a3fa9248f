"""Publishes our own nodes: by labels that the pod has already, or by go-micro's patch onto it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt, listed
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.fields import mapping_at
from pymicro.kubernetes.api.resource import PODS
from pymicro.kubernetes.pods.own_pod import OwnPod
from pymicro.kubernetes.pods.reader import annotations_of, labels_of
from pymicro.nodes.keys import RECORD_PREFIX, SERVICE, TYPE_LABEL, label_problem, record_key, selector_key
from pymicro.nodes.node import Node
from pymicro.nodes.record import dump_record, load_record

__all__ = ["PodPublisher"]

log = logger("pymicro.registry.kubernetes")

_PATCH = "application/strategic-merge-patch+json"

# Kubelet writes a pod's status now and then; each time a removal has to look again.
_TRIES = 5


def _version(pod: Mapping[str, Any]) -> str:
    """The resourceVersion of a pod; empty if it has none."""
    version = mapping_at(pod, "metadata").get("resourceVersion")
    return version if isinstance(version, str) else ""


@dataclass(slots=True)
class _OwnRecord:
    """What this process wrote for one service.

    Attributes:
        nodes: The nodes, by id.
        text: The record on the pod; None if it must be written, or written again.
        written: Whether the pod may have the record: we wrote it, or got no answer.
        gone: Ids and addresses of nodes that were taken back.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    text: str | None = None
    written: bool = False
    gone: list[tuple[str, str]] = field(default_factory=list)

    def is_own(self, text: object) -> bool:
        """Whether a record on the pod is one that this process may have written, or none at all."""
        if not isinstance(text, str) or text == self.text:
            return True
        try:
            found = load_record(text).nodes
        except ValueError:
            return True  # nobody can use it
        return {(node.id, node.address) for node in found} <= set(self.gone)


class PodPublisher:
    """Makes nodes of this process known in the way `registry_advertise` says.

    Args:
        mode: `auto`, `patch`, `labels` or `none`.
        client: The API server; only the methods ask it.
        pod: The own pod.

    Attributes:
        written: The newest resourceVersion written for each service.
    """

    def __init__(self, mode: str, client: Callable[[], KubeClient], pod: OwnPod) -> None:
        self._mode = mode
        self._client = client
        self._pod = pod
        self.written: dict[str, int] = {}
        self._writing = asyncio.Lock()
        self._modes: dict[str, str] = {}
        self._published: dict[str, _OwnRecord] = {}
        self._checked: set[tuple[str, str]] = set()
        self._seen: set[tuple[str, str]] = set()
        self._told: set[str] = set()

    @property
    def nodes(self) -> list[Node]:
        """The nodes that this process has written and not taken back."""
        return [node for published in self._published.values() for node in published.nodes.values()]

    async def publish(self, node: Node) -> None:
        """Make `node` known, or make sure that it still is.

        Raises:
            KubeError: The API server refused or did not answer.
            ConfigError: It cannot be made known: the name, address, port or pod is wrong.
                Only the first try raises this; later tries raise RegistryError.
        """
        if self._mode == "none":
            self._say(f"{node.service} is not published (registry_advertise is none)")
            return
        first = (node.service, node.id) not in self._seen
        self._seen.add((node.service, node.id))
        try:
            if problem := label_problem(node.service):
                raise ConfigError(problem)
            self._pod.check_advertised(node)
            async with self._writing:
                await self._publish(node)
        except ConfigError as exc:
            if first:
                raise
            # The service runs; somebody may repair this while it does.
            raise RegistryError(str(exc)) from exc

    async def _publish(self, node: Node) -> None:
        mode = self._modes.get(node.service) or await self._decide(node)
        if mode == "labels":
            await self._check_labels(node)
            return
        self._modes[node.service] = mode
        published = self._published.setdefault(node.service, _OwnRecord())
        for service, other in self._published.items():
            if service != node.service and record_key(service) == record_key(node.service) and other.nodes:
                raise ConfigError(
                    f"{excerpt(node.service)} and {excerpt(service)} are the same as labels; "
                    "a pod can be only one of them"
                )
        if published.nodes.get(node.id) != node:
            published.nodes.pop(node.id, None)
            published.nodes[node.id] = node
            published.text = None
        await self._write(node.service, published, node)

    async def _decide(self, node: Node) -> str:
        """Whether to publish by labels or by a patch."""
        if self._mode != "auto":
            return self._mode
        pod = await self._pod.look()
        if isinstance(pod, str):
            self._say(
                f"{node.service} is found by the labels of its pod, if it has them: the pod itself "
                f"cannot be looked at (registry_advertise is auto, and {pod})"
            )
            self._modes[node.service] = "labels"
            self._checked.add((node.service, node.address))
            return "labels"
        return "labels" if self._pod.is_labelled(pod, node.service) else "patch"

    # Labels

    async def _check_labels(self, node: Node) -> None:
        """Compare the template's words with what this process does, as far as we may look."""
        if (node.service, node.address) in self._checked:
            return
        unchecked = f"the labels and the port of the pod of {node.service} cannot be checked"
        try:
            pod = await self._pod.look()
        except KubeError as exc:
            self._say(f"{unchecked}: {exc}")
            return  # the pod is found all the same; the next renewal looks again
        if isinstance(pod, str):
            self._say(f"{unchecked}: {pod}")
            self._checked.add((node.service, node.address))
            return
        self._pod.check_labels(pod, node)
        self._checked.add((node.service, node.address))
        self._modes[node.service] = "labels"
        log.info("%s is found by the labels of %s", node.service, self._pod)

    # Patches

    async def _write(self, service: str, published: _OwnRecord, node: Node | None = None) -> None:
        """Bring the pod in line with `published` if it differs."""
        try:
            text = dump_record(list(published.nodes.values())) if published.nodes else None
        except ValueError as exc:
            raise ConfigError(str(exc)) from None
        if published.text is not None and published.text == text and await self._stands(service, text):
            return
        published.text = None
        try:
            pod = await self._patch({service: text})
        except KubeError as exc:
            published.written = published.written or not 400 <= exc.status < 500
            raise
        except asyncio.CancelledError:
            published.written = True
            raise
        published.text, published.written = text, True
        if node is not None:
            self._pod.check_address(pod, node)
            try:
                await self._sweep(pod)
            except (KubeError, ConfigError) as exc:
                # The node is registered, and the next registration sweeps again if it has to write.
                self._say(f"what an earlier process has left on {self._pod} stays there: {exc}")

    async def _stands(self, service: str, text: str) -> bool:
        """Whether the pod still says what we wrote."""
        try:
            pod = await self._pod.read()
        except KubeError as exc:
            if exc.status != 403:
                raise
            return False  # we may patch the pod but not look at it: write again
        labels = labels_of(pod)
        there = annotations_of(pod).get(record_key(service)) == text
        if there and labels.get(selector_key(service)) == SERVICE and labels.get(TYPE_LABEL) == SERVICE:
            return True
        log.warning("somebody changed the registration of %s on %s; mending it", service, self._pod)
        return False

    async def _sweep(self, pod: Mapping[str, Any]) -> None:
        """Remove records that an earlier process of this pod has left.

        A record that claims an address of ours was written by a process that is gone.
        Other containers of the pod keep theirs.
        """
        mine = {record_key(service) for service, published in self._published.items() if published.nodes}
        addresses = {node.address for node in self.nodes}
        left = []
        for key, text in annotations_of(pod).items():
            if key.startswith(RECORD_PREFIX) and key not in mine and isinstance(text, str) and text:
                try:
                    nodes = load_record(text).nodes
                except ValueError:
                    continue
                if nodes and all(node.address in addresses for node in nodes):
                    left.append(key.removeprefix(RECORD_PREFIX))
        if left:
            log.info("removing what an earlier process has left on %s: %s", self._pod, listed(left))
            await self._patch(dict.fromkeys(left), _version(pod))

    async def _remove(self, service: str, published: _OwnRecord) -> None:
        """Remove our record, unless another process of this pod has written its own there since."""
        for _ in range(_TRIES):
            try:
                pod = await self._pod.read()
            except KubeError as exc:
                if exc.status != 403:
                    raise
                # We may patch the pod but not look at it: then nobody can tell whose record it is.
                await self._patch({service: None})
                return
            if not published.is_own(annotations_of(pod).get(record_key(service))):
                log.info("%s has a record of another process of %s, which stays", self._pod, service)
                return
            try:
                await self._patch({service: None}, _version(pod))
                return
            except KubeError as exc:
                if exc.status != 409:
                    raise
        raise KubeError(f"{self._pod} changes so often that the record of {service} could not be removed")

    async def _patch(self, records: Mapping[str, str | None], version: str = "") -> Mapping[str, Any]:
        """Write records, or remove them (None); returns the pod afterwards.

        Args:
            version: The resourceVersion that the pod must still have; empty for any.
        """
        labels: dict[str, str | None] = {}
        annotations: dict[str, str | None] = {}
        for service, text in records.items():
            labels[selector_key(service)] = SERVICE if text is not None else None
            annotations[record_key(service)] = text
        if any(text is not None for text in records.values()):
            labels[TYPE_LABEL] = SERVICE
        metadata: dict[str, Any] = {"labels": labels, "annotations": annotations}
        if version:
            metadata["resourceVersion"] = version
        namespace, name = await self._pod.where()
        try:
            pod = await self._client().request(
                "PATCH",
                PODS.path(namespace, name),
                body={"metadata": metadata},
                content_type=_PATCH,
            )
        except KubeError as exc:
            if exc.status == 404:
                raise self._pod.missing() from exc
            if exc.status in (400, 422):
                raise ConfigError(str(exc)) from exc
            raise
        pod = pod if isinstance(pod, dict) else {}
        version = _version(pod)
        for service in records:
            self.written[service] = int(version) if version.isdigit() else 0
        return pod

    async def withdraw(self, node: Node) -> None:
        """Take back what `publish` wrote for `node`; what another process of the pod wrote stays.

        Raises:
            KubeError: The API server refused or did not answer.
        """
        async with self._writing:
            published = self._published.get(node.service)
            if published is None or (known := published.nodes.pop(node.id, None)) is None:
                return
            published.gone.append((known.id, known.address))
            if not published.written:
                if not published.nodes:
                    del self._published[node.service]
                return
            if published.nodes:
                await self._write(node.service, published)
                return
            del self._published[node.service]
            try:
                await self._remove(node.service, published)
            except ConfigError as exc:
                log.debug("%s needs no deregistering: %s", node.id, exc)

    def _say(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            log.info("%s", text)
