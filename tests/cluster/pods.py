"""Pods on a real API server, whose status the tests write in the place of a kubelet."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from tests.cluster.api import Api
from tests.cluster.plane import ControlPlane

SERVICE = {"micro.mu/type": "service", "micro.mu/selector-greeter": "service"}


def path(pod: Mapping[str, Any]) -> str:
    """`/api/v1/namespaces/NAMESPACE/pods/NAME`."""
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def create(api: Api, pod: Mapping[str, Any]) -> dict[str, Any]:
    """Create `pod` and write its status, which creation drops. Returns what the server made of it."""
    made = api.post(f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods", pod)
    if "status" not in pod:
        return dict(made)
    return set_status(api, made, pod["status"])


def set_status(api: Api, pod: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    """Change these fields of its status."""
    return dict(api.patch(f"{path(pod)}/status", {"status": status}))


def set_ready(api: Api, pod: Mapping[str, Any], ready: bool) -> dict[str, Any]:
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return set_status(api, pod, {"conditions": [condition]})


def delete(api: Api, pod: Mapping[str, Any]) -> None:
    """Delete it at once, as a kubelet does when its containers have ended."""
    api.delete(path(pod), grace=0)


def multiply(plane: ControlPlane, pod: Mapping[str, Any], count: int) -> list[str]:
    """Make `count` pods like `pod` with names and addresses of their own; returns the addresses.

    One is made through the API server and then copied in etcd, which takes a tenth of the time. It is
    stored in protobuf, where each text has its length before it: so name, uid and address are replaced
    by others as long.
    """
    name, ip = "copy-00000", "10.100.100.100"
    status = {**pod["status"], "podIP": ip, "podIPs": [{"ip": ip}]}
    made = create(plane.api, {**pod, "metadata": {**pod["metadata"], "name": name}, "status": status})
    uid = made["metadata"]["uid"]
    folder = f"/registry/pods/{made['metadata']['namespace']}"
    stored = plane.etcd.get(f"{folder}/{name}")
    addresses = []
    for number in range(1, count + 1):
        copy = stored
        own = f"10.{100 + number // 10_000}.{100 + number // 100 % 100}.{100 + number % 100}"
        for old, new in ((name, f"copy-{number:05}"), (uid, str(uuid.uuid4())), (ip, own)):
            assert len(new) == len(old)
            copy = copy.replace(old.encode(), new.encode())
        plane.etcd.put(f"{folder}/copy-{number:05}", copy)
        addresses.append(own)
    delete(plane.api, made)
    return addresses


def record(*addresses: str, name: str = "greeter", version: str = "1.0.0") -> str:
    """What a self-registered service has in its annotation: go-micro's JSON, one node for each address."""
    return json.dumps(
        {
            "name": name,
            "version": version,
            "metadata": None,
            "endpoints": [],
            "nodes": [
                {"id": f"{name}-{address}", "address": address, "metadata": {"protocol": "grpc"}}
                for address in addresses
            ],
        }
    )
