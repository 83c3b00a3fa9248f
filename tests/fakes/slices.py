"""EndpointSlices as they come from an API server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["endpoint", "slice"]


def endpoint(
    *addresses: str,
    ready: bool | None = True,
    serving: bool | None = None,
    terminating: bool | None = None,
    zone: str = "",
    node: str = "",
    pod: str = "",
    hints: Sequence[str] = (),
) -> dict[str, Any]:
    """One endpoint; a condition that is None is left out, as old controllers do.

    Args:
        pod: Name of the pod in `targetRef`; none if empty.
        hints: `hints.forZones`.
    """
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}
    one: dict[str, Any] = {
        "addresses": list(addresses),
        "conditions": {name: value for name, value in conditions.items() if value is not None},
    }
    if zone:
        one["zone"] = zone
    if node:
        one["nodeName"] = node
    if pod:
        one["targetRef"] = {"kind": "Pod", "namespace": "default", "name": pod, "uid": f"uid-of-{pod}"}
    if hints:
        one["hints"] = {"forZones": [{"name": zone_} for zone_ in hints]}
    return one


def slice(
    name: str = "greeter-abc12",
    *endpoints: Mapping[str, Any],
    service: str = "greeter",
    namespace: str = "default",
    ports: Mapping[str, int] | None = None,
    family: str = "IPv4",
    labels: Mapping[str, str] | None = None,
    uid: str = "",
) -> dict[str, Any]:
    """A slice of `service`, as the endpointslice controller makes it.

    Args:
        ports: Names and numbers; `grpc` 8080 if not given. A name may be empty.
    """
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "labels": {
            "kubernetes.io/service-name": service,
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            **(labels or {}),
        },
    }
    if uid:
        metadata["uid"] = uid
    listed = {"grpc": 8080} if ports is None else ports
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": metadata,
        "addressType": family,
        "endpoints": [dict(one) for one in endpoints],
        "ports": [{"name": key, "port": number, "protocol": "TCP"} for key, number in listed.items()],
    }
