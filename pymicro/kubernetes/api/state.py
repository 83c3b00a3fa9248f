"""The state of a reflector, for readers outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pymicro.kubernetes.api.errors import KubeError

__all__ = ["ReflectorState"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReflectorState:
    """How a reflector fares, at one moment: for logs, `doctor` and metrics.

    Attributes:
        synced: Whether it has had all objects once.
        objects: How many it keeps.
        last_sync: When it last completed a list (by its clock); None before the first.
        last_heard: When the server last said anything.
        resource_version: The version the next watch begins from; empty if everything must be listed.
        lists: Lists completed, of either kind.
        watches: Watches begun, those that go on from a streaming list included.
        restarts: Watches that broke or fell silent before their agreed end.
        errors: How often each `KubeError.kind` occurred. `idle` is not always a fault: a
            watch of a collection in which nothing happens may be silent too.
        skipped: Objects in the collection that cannot be read.
        failure: The present failure; None while it works.
        streaming_list: Whether the server does streaming lists; None if it is not known yet.
    """

    synced: bool
    objects: int
    last_sync: float | None
    last_heard: float | None
    resource_version: str
    lists: int
    watches: int
    restarts: int
    errors: Mapping[str, int]
    skipped: int
    failure: KubeError | None
    streaming_list: bool | None
