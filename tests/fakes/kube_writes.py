"""What comes of a write to an API server: who may change what of an object."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tests.fakes.kube_merge import merge
from tests.fakes.kube_request import Target
from tests.fakes.kube_status import Refused
from tests.fakes.kube_store import Key, Store, Stored, now

__all__ = ["delete", "patch", "post", "put"]

# Content types of patches, and whether they are strategic.
_PATCHES = {"application/strategic-merge-patch+json": True, "application/merge-patch+json": False}


def post(store: Store, target: Target, body: dict[str, Any]) -> Stored:
    """Create; a pod begins without a status, which its kubelet writes through pods/status."""
    body = copy.deepcopy(body)
    body.update(kind=target.kind.kind, apiVersion=target.kind.api_version)
    if target.namespace:
        body["metadata"]["namespace"] = target.namespace
    body["metadata"].pop("uid", None)
    if target.kind.plural == "pods":
        body["status"] = {"phase": "Pending"}
    return store.create(body)


def put(store: Store, target: Target, body: dict[str, Any]) -> Stored:
    """Replace; not if the object has changed since the version in `body`."""
    old = store.get(target.key)
    _hold(old, target, body)
    return _replace(store, old, target, body)


def patch(store: Store, target: Target, body: Any, content_type: str) -> Stored:
    """Merge `body` in; not if the object has changed since a version in `body`."""
    if content_type not in _PATCHES:
        raise Refused(415, f"the fake knows no patches of type {content_type}")
    old = store.get(target.key)
    _hold(old, target, body)
    return _replace(store, old, target, merge(old.obj, body, strategic=_PATCHES[content_type]))


def _hold(old: Stored, target: Target, body: dict[str, Any]) -> None:
    """Refuse a body that means another version."""
    given = body.get("metadata", {}).get("resourceVersion")
    if given and given != old.obj["metadata"]["resourceVersion"]:
        message = "the object has been modified; please apply your changes to the latest version"
        raise Refused(409, message, details={"name": target.name, "kind": target.kind.plural})


def _replace(store: Store, old: Stored, target: Target, new: dict[str, Any]) -> Stored:
    """Write what this subresource may change, and nothing else."""
    if target.subresource == "status":
        return store.update({**old.obj, "status": new.get("status") or {}})
    if target.kind.plural == "pods":
        if _pinned(new) != _pinned(old.obj):
            raise Refused(
                422,
                f'Pod "{target.name}" is invalid: spec: Forbidden: pod updates may not change fields '
                "other than `spec.containers[*].image`",
            )
        new = {**new, "status": old.obj.get("status", {})}
    kind = {"kind": target.kind.kind, "apiVersion": target.kind.api_version}
    return store.update({**new, **kind})


def _pinned(pod: dict[str, Any]) -> dict[str, Any]:
    """The part of a pod's spec that nobody may change."""
    spec = pod.get("spec") or {}
    containers = [{k: v for k, v in one.items() if k != "image"} for one in spec.get("containers") or []]
    return {**spec, "containers": containers}


def delete(store: Store, key: Key, options: Mapping[str, Any]) -> Stored:
    """Remove; a pod that runs somewhere has its grace first, and a `deletionTimestamp` meanwhile."""
    stored = store.get(key)
    spec = stored.obj.get("spec", {})
    grace = options.get("gracePeriodSeconds")
    grace = int(spec.get("terminationGracePeriodSeconds", 30) if grace is None else grace)
    if key[0] == "pods" and grace and spec.get("nodeName"):
        mark = {"deletionTimestamp": now(), "deletionGracePeriodSeconds": grace}
        return store.update({**stored.obj, "metadata": {**stored.obj["metadata"], **mark}})
    return store.remove(key)
