"""Why a service is or is not found among the pods, pod by pod."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymicro.base.findings import Finding, Level
from pymicro.base.printable import listed, shortened
from pymicro.kubernetes.api.fields import mapping_at
from pymicro.kubernetes.cluster.checks import place
from pymicro.kubernetes.pods.reader import (
    PORT,
    PodReader,
    PodReading,
    Why,
    annotations_of,
    labels_of,
    services_of,
)
from pymicro.nodes.keys import SERVICE, TYPE_LABEL, port_key, record_key, selector_key
from pymicro.nodes.node import Node
from pymicro.nodes.wellknown import other_protocol

__all__ = ["DiagnosedPod", "findings", "is_kin", "kin_selectors", "look"]

# The most pods listed one by one; a fault of a thousand pods shows on these.
_LISTED = 30

# These pass by themselves or are intended: no problem as long as other pods count.
_HARMLESS = frozenset(
    {"terminating", "finished", "not ready", "no address", "other service", "other protocol"}
)

_LABEL_VALUE = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
# People mark the pods of an application by these ("Recommended Labels", and an older custom).
_KIN = ("app.kubernetes.io/name", "app")


@dataclass(frozen=True, slots=True)
class DiagnosedPod:
    """A pod and its reading.

    Attributes:
        untyped: Whether it lacks the label by which services are listed.
        several: Whether it says that it is of several services.
    """

    uid: str
    name: str
    namespace: str
    reading: PodReading
    untyped: bool = False
    several: bool = False


def look(pod: Mapping[str, Any], service: str) -> DiagnosedPod:
    """Read a pod for `service`."""
    named = mapping_at(pod, "metadata")
    return DiagnosedPod(
        str(named.get("uid", "")),
        shortened(str(named.get("name", ""))),
        shortened(str(named.get("namespace", ""))),
        PodReader(service).read(pod),
        labels_of(pod).get(TYPE_LABEL) != SERVICE,
        len(set(services_of(pod))) > 1,
    )


def kin_selectors(service: str) -> list[str]:
    """Label selectors for pods that lack the label but look as if they should have it."""
    lacking = f"!{selector_key(service)}"
    selectors = [f"{TYPE_LABEL}={SERVICE},{lacking}"]
    if _LABEL_VALUE.fullmatch(service):
        selectors += [f"{key}={service},{lacking}" for key in _KIN]
    return selectors


def is_kin(pod: Mapping[str, Any], service: str) -> bool:
    """Whether a pod without the label looks like one of `service`."""
    labels = labels_of(pod)
    return bool(annotations_of(pod).get(record_key(service))) or any(
        labels.get(key) == service for key in _KIN
    )


def findings(
    service: str,
    namespaces: Sequence[str | None],
    labelled: Sequence[DiagnosedPod],
    kin: Sequence[DiagnosedPod],
) -> Iterator[Finding]:
    """The findings about the pods.

    Args:
        service: Its name.
        namespaces: The namespaces that were searched.
        labelled: Pods with the label of `service`.
        kin: Pods without it that look as if they should have it.
    """
    found = sum(len(_called(pod.reading)) for pod in labelled if not pod.reading.why)
    last = 0 if found else sum(len(_called(pod.reading)) for pod in labelled)
    several = len(namespaces) > 1 or None in namespaces
    # Pods that do not count come first: the user asks about those.
    for pod in sorted(labelled, key=lambda one: (not one.reading.why, one.namespace, one.name))[:_LISTED]:
        yield _of_pod(pod, _check(pod, several), service, found)
    if len(labelled) > _LISTED:
        yield Finding("pods", "note", f"and {len(labelled) - _LISTED} more pods with the label")
    for pod in kin[:_LISTED]:
        yield Finding(
            _check(pod, several),
            "note" if found else "problem",
            f"label missing: it looks like a pod of {service} and lacks {selector_key(service)}: {SERVICE}",
            _labels_to_add(service)
            + "\n(one that registers itself gets them then: its log says why it has not)",
        )
    where = " and ".join(place(namespace) for namespace in namespaces)
    if last:
        text = f"{last} node{'s' * (last != 1)} of {service} {where}, being deleted: no other counts"
        yield Finding("nodes", "problem", text)
    elif found:
        yield Finding("nodes", "ok", f"{found} node{'s' * (found != 1)} of {service} {where}")
    elif labelled or kin:
        yield Finding("nodes", "problem", f"no pod of {service} counts {where}")
    else:
        yield Finding(
            "nodes",
            "problem",
            f"no pod {where} carries the label {selector_key(service)}: {SERVICE}",
            f"{_labels_to_add(service)}\n"
            "and see whether its pods are in another namespace (--registry-namespace a,b or *)",
        )


def _check(pod: DiagnosedPod, several: bool) -> str:
    return f"pod {pod.namespace}/{pod.name}" if several else f"pod {pod.name}"


def _of_pod(pod: DiagnosedPod, check: str, service: str, found: int) -> Finding:
    reading = pod.reading
    if not reading.why:
        called = _called(reading)
        how = "by its record" if reading.registered else "by its labels"
        where = listed([node.address for node in called], 4)
        if pod.untyped:
            text = f"counts: {where} ({how}), and is not listed: it lacks {TYPE_LABEL}: {SERVICE}"
            return Finding(check, "note", text, _labels_to_add(service))
        if reading.doubt:
            text = f"counts: {where} ({how}), perhaps wrongly: {reading.doubt}"
            return Finding(check, "problem" if pod.several else "note", text, _port_to_say(service))
        return Finding(check, "ok", f"counts: {where} ({how})")
    level: Level = "note" if reading.why in _HARMLESS and found else "problem"
    if reading.why in ("terminating", "finished"):
        level = "note"
        if (called := _called(reading)) and not found:
            return Finding(check, level, f"counts for want of others: {called[0].address}, {reading.text}")
    return Finding(check, level, f"does not count: {reading.text}", _mending(reading.why, pod, service))


def _called(reading: PodReading) -> list[Node]:
    return [node for node in reading.nodes if not other_protocol(node.metadata)]


def _port_to_say(service: str) -> str:
    return f'say it in the pod template:\n  annotations:\n    {port_key(service)}: "NAME OR NUMBER"'


def _mending(why: Why, pod: DiagnosedPod, service: str) -> str:
    if why == "not ready":
        return f"kubectl -n {pod.namespace} describe pod {pod.name}: its readiness probe and its containers"
    if why == "no port":
        return f"name the port in the pod template:\n  ports:\n    - name: {PORT}\n      containerPort: 8080"
    if why == "bad annotation":
        return (
            f"kubectl -n {pod.namespace} annotate pod {pod.name} {record_key(service)}- takes it away; "
            "a pod that registers itself writes it anew"
        )
    if why == "foreign address":
        return (
            "set POD_IP by the downward API in that pod (fieldPath status.podIP); "
            "an address of another pod never counts"
        )
    if why == "other service":
        return "the two names are the same as labels: give one of the services another name"
    return ""


def _labels_to_add(service: str) -> str:
    return (
        "add to the labels of the pod template (spec.template.metadata.labels):\n"
        f"  {TYPE_LABEL}: {SERVICE}\n  {selector_key(service)}: {SERVICE}"
    )
