"""Why a Kubernetes Service is or is not found, endpoint by endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymicro.base.findings import Finding, Level
from pymicro.kubernetes.cluster.checks import place
from pymicro.kubernetes.slices.reader import SliceReading, name_of, read_slice

__all__ = ["DiagnosedSlice", "findings", "look"]

# The most endpoints listed one by one; a fault of a thousand endpoints shows on these.
_LISTED = 30


@dataclass(frozen=True, slots=True)
class DiagnosedSlice:
    """A slice and its reading."""

    name: str
    reading: SliceReading


def look(found: Mapping[str, Any], service: str) -> DiagnosedSlice:
    """Read a slice for `service`."""
    return DiagnosedSlice(name_of(found), read_slice(found, service))


def findings(service: str, namespace: str | None, slices: Sequence[DiagnosedSlice]) -> Iterator[Finding]:
    """The findings about the slices of `service` in one namespace (None: in all)."""
    where = place(namespace)
    if not slices:
        name = service.partition(".")[0]
        yield Finding(
            "nodes",
            "problem",
            f"there is no slice of a Service {name} {where}",
            f"see whether the Service is there and has a selector, and in which namespace ({name}.NAMESPACE)",
        )
        return
    for one in slices:
        if one.reading.problem:
            fix = "name the Service's port grpc (spec.ports[].name)"
            yield Finding(f"slice {one.name}", "problem", one.reading.problem, fix)
    endpoints = [endpoint for one in slices for endpoint in one.reading.endpoints]
    count = sum(not endpoint.why for endpoint in endpoints)
    last = 0 if count else sum(endpoint.node is not None for endpoint in endpoints)
    # Endpoints that do not count come first: the user asks about those.
    for endpoint in sorted(endpoints, key=lambda one: (not one.why, one.name))[:_LISTED]:
        check = f"endpoint {endpoint.name}"
        if endpoint.node is not None and not endpoint.why:
            yield Finding(check, "ok", f"counts: {endpoint.node.address}")
        elif endpoint.node is not None and last:
            yield Finding(check, "note", f"counts for want of others: {endpoint.node.address}, terminating")
        else:
            level: Level = "note" if count or endpoint.why == "terminating" else "problem"
            yield Finding(check, level, f"does not count: {endpoint.why}")
    if len(endpoints) > _LISTED:
        yield Finding("endpoints", "note", f"and {len(endpoints) - _LISTED} more")
    if last:
        text = f"{last} endpoint{'s' * (last != 1)} of {service} {where}, terminating: no other counts"
        yield Finding("nodes", "problem", text)
    elif count:
        yield Finding("nodes", "ok", f"{count} endpoint{'s' * (count != 1)} of {service} {where}")
    else:
        yield Finding("nodes", "problem", f"no endpoint of {service} counts {where}")
