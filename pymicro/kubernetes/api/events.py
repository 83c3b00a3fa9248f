"""The lines of a watch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pymicro.base.printable import excerpt
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.fields import mapping_at

__all__ = ["ends_initial_events", "is_older", "read_event"]

# Kubernetes' versions are etcd's revisions, 64 bits.
_LONGEST_VERSION = 20


def read_event(line: bytes) -> tuple[str, Mapping[str, Any]]:
    """The type and the object of an event.

    Raises:
        KubeError: The line is no event. The server writes no such line, so the stream is broken.
    """
    try:
        event = json.loads(line.decode())
        kind, found = event["type"], event["object"]
    except (KeyError, TypeError, ValueError, RecursionError) as exc:
        raise KubeError(f"a line of the watch is no event: {excerpt(exc, 1000)}", kind="malformed") from exc
    if not isinstance(kind, str) or not isinstance(found, dict):
        raise KubeError("a line of the watch is no event: it lacks a type or an object", kind="malformed")
    return kind, found


def ends_initial_events(bookmark: Mapping[str, Any]) -> bool:
    """Whether this bookmark says that a streaming list is complete."""
    annotations = mapping_at(mapping_at(bookmark, "metadata"), "annotations")
    return annotations.get("k8s.io/initial-events-end") == "true"


def is_older(version: str, than: str) -> bool:
    """Whether one version comes before another; False if that cannot be told (they need not be numbers)."""
    if not (_is_number(version) and _is_number(than)):
        return False
    return int(version) < int(than)


def _is_number(version: str) -> bool:
    return version.isascii() and version.isdigit() and len(version) <= _LONGEST_VERSION
