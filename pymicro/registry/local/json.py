"""A node as one JSON document, as registry `local` keeps it; reading trusts nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pymicro.address import split_address
from pymicro.node import NO_METADATA, Endpoint, Node, Value

__all__ = ["dump_node", "load_node"]


def dump_node(node: Node) -> bytes:
    """The document of a node; everything but its `kind`, which is always `address` here."""
    document = {
        "id": node.id,
        "address": node.address,
        "service": node.service,
        "version": node.version,
        "metadata": dict(node.metadata),
        "endpoints": [
            {
                "name": endpoint.name,
                "request": _dump_value(endpoint.request),
                "response": _dump_value(endpoint.response),
                "metadata": dict(endpoint.metadata),
            }
            for endpoint in node.endpoints
        ],
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _dump_value(value: Value | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {"name": value.name, "type": value.type, "values": [_dump_value(item) for item in value.values]}


def load_node(data: bytes) -> Node:
    """The node of a document.

    Raises:
        ValueError: It is no such document; the message says what is wrong.
    """
    try:
        document = json.loads(data)
        if not isinstance(document, dict):
            raise ValueError(f"it is {_kind(document)} and no object")
        address = _text(document, "address")
        host, port = split_address(address)
        # Addresses end up in log lines and in grpc's targets.
        if not host or not port or not host.isprintable() or any(char in host for char in " /"):
            raise ValueError(f"address {address!r} cannot be dialled")
        return Node(
            id=_text(document, "id"),
            address=address,
            service=_text(document, "service"),
            version=_text(document, "version", empty=True),
            metadata=_metadata(document),
            endpoints=_endpoints(json.dumps(_list(document, "endpoints"))),
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None


@lru_cache(maxsize=256)
def _endpoints(text: str) -> tuple[Endpoint, ...]:
    # A thousand nodes of one service have the same endpoints: they share one tuple.
    return tuple(
        Endpoint(
            name=_text(item, "name"),
            request=_schema(item, "request"),
            response=_schema(item, "response"),
            metadata=_metadata(item),
        )
        for item in map(_object, json.loads(text))
    )


def _value(found: Any) -> Value:
    item = _object(found)
    return Value(
        _text(item, "name", empty=True),
        _text(item, "type", empty=True),
        tuple(_value(inner) for inner in _list(item, "values")),
    )


def _schema(item: Mapping[str, Any], key: str) -> Value | None:
    return None if item.get(key) is None else _value(item[key])


def _kind(found: Any) -> str:
    return "null" if found is None else type(found).__name__


def _object(found: Any) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise ValueError(f"{_kind(found)} found where an object belongs")
    return found


def _checked(text: Any, what: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{what} is {_kind(text)} and no text")
    try:
        text.encode()
    except UnicodeEncodeError:
        # JSON can spell half a character; it would blow up far from here.
        raise ValueError(f"{what} is no valid unicode") from None
    return text


def _text(document: Mapping[str, Any], key: str, *, empty: bool = False) -> str:
    found = document.get(key)
    if empty and found is None:
        return ""
    text = _checked(found, repr(key))
    if not text and not empty:
        raise ValueError(f"{key!r} is empty")
    return text


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    found = document.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise ValueError(f"{key!r} is {_kind(found)} and no list")
    return found


def _metadata(document: Mapping[str, Any]) -> Mapping[str, str]:
    found = document.get("metadata")
    if found is None or found == {}:
        return NO_METADATA
    return {
        _checked(key, "a key of 'metadata'"): _checked(value, f"'metadata' at {key!r}")
        for key, value in _object(found).items()
    }
