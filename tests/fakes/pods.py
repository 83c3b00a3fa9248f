"""Pods as they come from an API server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["pod"]


def pod(
    name: str = "greeter-1",
    ip: str = "10.0.0.1",
    *,
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    ready: bool = True,
    ports: Mapping[str, int] | None = None,
    phase: str = "Running",
    ips: Sequence[str] | None = None,
    uid: str = "",
    node: str = "node-a",
    terminating: bool = False,
) -> dict[str, Any]:
    """A pod with one container `main`, valid for a real API server too.

    Args:
        ip: Its `status.podIP`; "" for a pod that has none yet.
        ports: Names and numbers of the container's ports; `grpc` 8080 if not given.
        ips: `status.podIPs`; only `ip` if not given.
        uid: Given by the API server if empty.
        node: Where it runs; a pod on no node is deleted at once, without grace.
        terminating: Whether it has a `deletionTimestamp`.
    """
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if uid:
        metadata["uid"] = uid
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    if terminating:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        metadata["deletionGracePeriodSeconds"] = 30
    listed = {"grpc": 8080} if ports is None else ports
    container: dict[str, Any] = {"name": "main", "image": "greeter:1"}
    if listed:
        container["ports"] = [
            {"name": key, "containerPort": number, "protocol": "TCP"} for key, number in listed.items()
        ]
    spec: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": 30}
    if node:
        spec["nodeName"] = node
    status: dict[str, Any] = {
        "phase": phase,
        "conditions": [
            {"type": "Initialized", "status": "True"},
            {"type": "Ready", "status": "True" if ready else "False"},
            {"type": "ContainersReady", "status": "True" if ready else "False"},
        ],
    }
    addresses = list(ips) if ips is not None else [ip] if ip else []
    if ip:
        status["podIP"] = ip
    if addresses:
        status["podIPs"] = [{"ip": one} for one in addresses]
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec, "status": status}
