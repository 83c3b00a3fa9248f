"""The endpoints of go-micro's records as JSON: most of a record, and the same in thousands of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pymicro.base.recent import Recent
from pymicro.nodes.document import as_object, read_list, read_pairs, read_text
from pymicro.nodes.node import Endpoint, Value

__all__ = ["dump_endpoints", "load_endpoints", "share_endpoints"]

# go-micro itself goes 3 deep. If a schema goes deeper than this, we still call the nodes of
# the record, which then counts as one without endpoints.
DEEPEST_VALUE = 16
MOST_VALUES = 4096
MOST_ENDPOINTS = 1024

# Endpoints and values that are kept for sharing, and 64 characters of their text count as
# one; they take some 100 bytes each.
_MOST_SHARED = 65_536
# Writing more of them, to see whether they are known, would take as long as reading them.
_MOST_OF_ONE = 2048
# The longest text of endpoints that is shared.
LONGEST_KNOWN = 64 << 10


def dump_endpoints(endpoints: Iterable[Endpoint]) -> list[dict[str, Any]]:
    """Endpoints as they are in JSON; no list ever has a null (go-micro's clients would panic)."""
    return [
        {
            "name": endpoint.name,
            "request": _dump_value(endpoint.request),
            "response": _dump_value(endpoint.response),
            "metadata": dict(endpoint.metadata),
        }
        for endpoint in endpoints
    ]


def _dump_value(value: Value | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {"name": value.name, "type": value.type, "values": [_dump_value(item) for item in value.values]}


_shared: Recent[tuple[str, bool], tuple[Endpoint, ...]] = Recent(_MOST_SHARED)


def load_endpoints(
    text: str, *, nulls: bool = False, listed: list[Any] | None = None
) -> tuple[Endpoint, ...]:
    """The endpoints in a JSON list; equal texts share one tuple.

    It is empty if they are too many or too deep: only people read them, and no real
    service has that many.

    Args:
        text: The list as JSON.
        nulls: Skip nulls in lists (go-micro's clients choke on them): in records shared
            with go-micro, a bad schema is no reason to lose a node.
        listed: The list, if the text is parsed already.

    Raises:
        ValueError: Something in the list is no endpoint.
    """
    if (known := _shared.get((text, nulls))) is not None:
        return known
    endpoints, cost = _read_endpoints(json.loads(text) if listed is None else listed, nulls)
    return _shared.put((text, nulls), endpoints, cost + len(text) // 64) if endpoints else endpoints


def share_endpoints(listed: list[Any], *, nulls: bool = False) -> tuple[Endpoint, ...]:
    """The endpoints in a list that was parsed; equal ones share one tuple, unless they are very many.

    Raises:
        ValueError: Something in the list is no endpoint.
    """
    endpoints, cost = _read_endpoints(listed, nulls)
    if not endpoints or cost > _MOST_OF_ONE:
        return endpoints
    text = json.dumps(dump_endpoints(endpoints), ensure_ascii=False, separators=(",", ":"))
    if len(text) > LONGEST_KNOWN:
        return endpoints
    key = text, nulls
    return _shared.get(key) or _shared.put(key, endpoints, cost + len(text) // 64)


def _read_endpoints(found: list[Any], nulls: bool) -> tuple[tuple[Endpoint, ...], int]:
    """The endpoints, and how many there are with all their values."""
    budget = _Budget(MOST_VALUES, nulls)
    try:
        listed = budget.listed(found)
        if len(listed) > MOST_ENDPOINTS:
            return (), 0
        endpoints = tuple(
            Endpoint(
                name=read_text(item, "name"),
                request=_schema(item, "request", budget),
                response=_schema(item, "response", budget),
                metadata=budget.pairs(item),
            )
            for item in map(as_object, listed)
        )
    except _TooMuch:
        return (), 0
    return endpoints, len(endpoints) + MOST_VALUES - budget.left


class _TooMuch(Exception):
    pass


class _Budget:
    """The number of values and pairs that may still be read, and whether nulls are allowed in lists."""

    def __init__(self, left: int, nulls: bool) -> None:
        self.left = left
        self._nulls = nulls

    def listed(self, found: list[Any]) -> list[Any]:
        items = [item for item in found if item is not None] if self._nulls else found
        if len(items) > self.left:
            raise _TooMuch  # before any of them is read
        return items

    def take(self, depth: int) -> None:
        self.left -= 1
        if self.left < 0 or depth > DEEPEST_VALUE:
            raise _TooMuch

    def pairs(self, item: Mapping[str, Any]) -> Mapping[str, str]:
        found = item.get("metadata")
        if isinstance(found, dict):
            self.left -= len(found)
            if self.left < 0:
                raise _TooMuch
        return read_pairs(item, "metadata")


def _schema(item: Mapping[str, Any], key: str, budget: _Budget) -> Value | None:
    return None if item.get(key) is None else _value(item[key], budget, 1)


def _value(found: Any, budget: _Budget, depth: int) -> Value:
    budget.take(depth)
    item = as_object(found)
    values = read_list(item, "values")
    return Value(
        read_text(item, "name", empty=True),
        read_text(item, "type", empty=True),
        tuple([_value(inner, budget, depth + 1) for inner in budget.listed(values)]) if values else (),
    )
