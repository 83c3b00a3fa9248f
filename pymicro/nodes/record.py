"""go-micro's service record as JSON, and the label and annotation keys pods carry it under.

The form is go-micro 1.x's (`registry.Service`): a service with its endpoints and
nodes. Readers accept records of any release since 1.0, in any order, with keys left
out, null or unknown. Anybody who may write to a pod can write a record, so everything
in it is checked and bounded. Registry `local` reads and writes the parts of a record
with this module too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymicro.base.recent import Recent
from pymicro.nodes.address import is_scheme, join_address, split_address
from pymicro.nodes.node import NO_METADATA, Endpoint, Node, Value

__all__ = [
    "METADATA_PREFIX",
    "PORT_PREFIX",
    "RECORD_PREFIX",
    "SELECTOR_PREFIX",
    "SERVICE",
    "TYPE_LABEL",
    "ServiceRecord",
    "dump_endpoints",
    "dump_record",
    "label_problem",
    "load_endpoints",
    "load_record",
    "load_text",
    "port_key",
    "quoted",
    "read_list",
    "read_pairs",
    "read_text",
    "record_key",
    "san",
    "selector_key",
    "share_endpoints",
    "share_pairs",
]

# go-micro's keys and their value (go-plugins, registry/kubernetes).
TYPE_LABEL = "micro.mu/type"
SELECTOR_PREFIX = "micro.mu/selector-"
RECORD_PREFIX = "micro.mu/service-"
SERVICE = "service"
# Our own keys: metadata of a pod that carries no record, and which port of it a service has.
METADATA_PREFIX = "micro.mu/metadata-"
PORT_PREFIX = "micro.mu/port-"

# A label's name part may have 63 characters (Kubernetes, "Labels and Selectors"),
# of which `selector-` takes 9.
LONGEST_NAME = 54

# The limit for all annotations of an object together (apimachinery, TotalAnnotationSizeLimitB).
LONGEST_RECORD = 256 << 10
# The most nodes of one record: a process registers one, or a few.
MOST_NODES = 512
# Ids, versions, hosts and service names end up in log lines and error messages.
LONGEST_TEXT = 512
MOST_PAIRS = 128
MOST_PAIRS_IN_ALL = 8192
LONGEST_PAIRS = 16 << 10
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
# The longest mapping that is shared, and the longest text of endpoints that is.
_LONGEST_SHARED = 2 << 10
_LONGEST_KNOWN = 64 << 10
# Characters of a record before its endpoints: its name, its version and its metadata.
_LONGEST_START = 4 << 10

_OUTSIDE = re.compile(rb"[^-A-Za-z0-9_.]")
_ENDPOINTS = '"endpoints":['


def san(name: str) -> str:
    """`name` as label and annotation keys carry it: each UTF-8 byte that they forbid becomes `_`."""
    return _OUTSIDE.sub(b"_", name.encode(errors="surrogatepass")).decode()


def selector_key(service: str) -> str:
    """The label that selects pods of `service`."""
    return SELECTOR_PREFIX + san(service)


def record_key(service: str) -> str:
    """The annotation with the record of `service`."""
    return RECORD_PREFIX + san(service)


def port_key(service: str) -> str:
    """The annotation that says which port of a labelled pod is that of `service`: a name or a number."""
    return PORT_PREFIX + san(service)


def label_problem(service: str) -> str:
    """Why pods cannot carry `service` in a label; empty if they can."""
    key = san(service)
    if not key:
        return "a service's name is empty"
    if len(key) > LONGEST_NAME:
        return f"{quoted(service)} has {len(key)} bytes; as a pod's label it may have {LONGEST_NAME}"
    if not key[-1].isalnum():
        changed = f" (as a label {key!r})" if key != service else ""
        return f"{quoted(service)}{changed} does not end in a letter or digit, as a pod's label must"
    return ""


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """The contents of one record.

    Attributes:
        service: The service's name.
        nodes: The nodes that can be dialled, as far as the record tells.
        problems: The faults of the other nodes, a clause each.
    """

    service: str
    nodes: tuple[Node, ...]
    problems: tuple[str, ...] = ()


def dump_record(nodes: Sequence[Node]) -> str:
    """The record of nodes of one service; it has the version and endpoints of the last one.

    Endpoints are left out if the record would become too long for an annotation.

    Raises:
        ValueError: Some text is no valid unicode, or the record is too long even so.
    """
    last = nodes[-1]
    document: dict[str, Any] = {
        "name": last.service,
        "version": last.version,
        "metadata": {},
        "endpoints": dump_endpoints(last.endpoints),
        "nodes": [
            {"id": node.id, "address": node.address, "metadata": dict(node.metadata)} for node in nodes
        ],
    }
    # Half of the limit for all annotations of the pod: the pod has others too.
    for _ in range(2):
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise ValueError(f"the record of {quoted(last.service)} is no valid unicode") from None
        if size <= LONGEST_RECORD // 2:
            return text
        document["endpoints"] = None
    raise ValueError(f"the record of {quoted(last.service)} has {size} bytes without its endpoints")


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


def load_record(text: str) -> ServiceRecord:
    """The record in `text`. It shares equal endpoints, metadata and versions with other records.

    Raises:
        ValueError: The text is no record; the message says what is wrong.
    """
    if len(text) > LONGEST_RECORD:
        raise ValueError(f"it has {len(text)} characters, and {LONGEST_RECORD} are the most")
    try:
        document, endpoints = _parse(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    service = _same(read_text(document, "name", longest=LONGEST_TEXT))
    version = _same(read_text(document, "version", empty=True, longest=LONGEST_TEXT))
    listed = read_list(document, "nodes")
    problems = (
        [f"it lists {len(listed)} nodes, and {MOST_NODES} are read"] if len(listed) > MOST_NODES else []
    )
    nodes = []
    pairs = 0
    for item in listed[:MOST_NODES]:
        if item is None:
            continue
        try:
            node = _node(item, service, version, endpoints)
        except ValueError as exc:
            problems.append(str(exc))
            continue
        pairs += len(node.metadata)
        if pairs > MOST_PAIRS_IN_ALL:
            problems.append(f"the metadata of its nodes has more than {MOST_PAIRS_IN_ALL} entries")
            break
        nodes.append(node)
    return ServiceRecord(service, tuple(nodes), tuple(problems))


# Text of a record before its endpoints → text of the endpoints. Thousands of pods have both in
# common, and endpoints are most of a record: we cut them out before we parse it. Their characters
# are the cost.
_known: Recent[str, str] = Recent(1 << 20)


def _parse(text: str) -> tuple[Mapping[str, Any], tuple[Endpoint, ...]]:
    """The record without its endpoints, and the endpoints."""
    at = text.find(_ENDPOINTS, 0, _LONGEST_START)
    start = at + len(_ENDPOINTS) - 1
    if at >= 0:
        known = _known.get(text[:start])
        if known is not None and text.startswith(known, start):
            document = load_text(f"{text[:start]}null{text[start + len(known) :]}")
            if document.get("endpoints", known) is None:  # we did cut out the record's endpoints
                return document, load_endpoints(known, nulls=True)
    document = load_text(text)
    found = read_list(document, "endpoints")
    if at >= 0 and found and len(text) <= 2 * _LONGEST_KNOWN:
        value, end = json.JSONDecoder().raw_decode(text, start)
        if value == found and end - start <= _LONGEST_KNOWN:
            endpoints = load_endpoints(text[start:end], nulls=True, listed=found)
            if endpoints:
                _known.put(text[:start], text[start:end], end)
            return document, endpoints
    return document, share_endpoints(found, nulls=True)


def _node(found: Any, service: str, version: str, endpoints: tuple[Endpoint, ...]) -> Node:
    item = _object(found)
    node_id = read_text(item, "id", longest=LONGEST_TEXT)
    if not node_id.isprintable():
        raise ValueError(f"node id {quoted(node_id)} is not printable")
    address = _address(item)
    return Node(node_id, address, service, version, read_pairs(item, "metadata", shared=True), endpoints)


def _address(item: Mapping[str, Any]) -> str:
    """`host:port`, from one text or (before go-micro 1.8) from a host and a number."""
    text = read_text(item, "address", longest=LONGEST_TEXT)
    number = item.get("port")
    if not number:
        host, port = split_address(text)
    elif isinstance(number, int) and 0 < number < 65536 and number is not True:
        if text.count(":") == 1 or text.startswith("["):
            host, port = split_address(text, default_port=number)
        else:
            host, port = text, number
    else:
        raise ValueError(f"{quoted(number)} is no port")
    # Addresses are used in log lines and in grpc's targets.
    odd = not host.isprintable() or any(char in host for char in " /@%,") or is_scheme(host)
    if not host or not port or odd:
        raise ValueError(f"address {quoted(text)} cannot be dialled")
    return join_address(host, port)


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
    if len(text) > _LONGEST_KNOWN:
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
            for item in map(_object, listed)
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
    item = _object(found)
    values = read_list(item, "values")
    return Value(
        read_text(item, "name", empty=True),
        read_text(item, "type", empty=True),
        tuple([_value(inner, budget, depth + 1) for inner in budget.listed(values)]) if values else (),
    )


# Parts of a document


def load_text(text: str | bytes) -> Mapping[str, Any]:
    """The JSON object in `text`.

    Raises:
        ValueError: The text is no object. (RecursionError if it is nested too deep.)
    """
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError(f"it is {_kind(document)} and no object")
    return document


def quoted(found: object) -> str:
    """Foreign text for a message: on one line and of bounded length."""
    if isinstance(found, list | dict):
        return f"a {_kind(found)}"  # it may be long and deep
    text = repr(found[:80] if isinstance(found, str) else found)
    return text if len(text) <= 100 else f"{text[:97]}…"


def _kind(found: Any) -> str:
    return "null" if found is None else type(found).__name__


def _object(found: Any) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise ValueError(f"{_kind(found)} found where an object belongs")
    return found


def _checked(text: Any, what: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{what} is {_kind(text)} and no text")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            # JSON can spell half a character, which would fail far from here.
            raise ValueError(f"{what} is no valid unicode") from None
    return text


def read_text(
    document: Mapping[str, Any], key: str, *, empty: bool = False, longest: int | None = None
) -> str:
    """The text at `key`; missing and null mean the empty text, if that is allowed."""
    found = document.get(key)
    if empty and found is None:
        return ""
    text = _checked(found, repr(key))
    if not text and not empty:
        raise ValueError(f"{key!r} is empty")
    if longest is not None and len(text) > longest:
        raise ValueError(f"{key!r} has {len(text)} characters, and {longest} are the most")
    return text


def read_list(document: Mapping[str, Any], key: str) -> list[Any]:
    """The list at `key`; missing and null mean the empty list."""
    found = document.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise ValueError(f"{key!r} is {_kind(found)} and no list")
    return found


def read_pairs(document: Mapping[str, Any], key: str, *, shared: bool = False) -> Mapping[str, str]:
    """The text pairs at `key`; missing, null and {} mean no pairs.

    Args:
        shared: Whether to bound the pairs, and to share one mapping among equal ones.
    """
    found = document.get(key)
    if found is None or found == {}:
        return NO_METADATA
    pairs = {
        _checked(name, f"a key of {key!r}"): _checked(value, f"{key!r} at {quoted(name)}")
        for name, value in _object(found).items()
    }
    return share_pairs(pairs) if shared else pairs


def share_pairs(pairs: Mapping[str, str]) -> Mapping[str, str]:
    """One mapping for the equal pairs of thousands of nodes.

    Raises:
        ValueError: The pairs are too many or too long.
    """
    if len(pairs) > MOST_PAIRS:
        raise ValueError(f"the metadata has {len(pairs)} entries, and {MOST_PAIRS} are the most")
    size = sum(map(len, pairs)) + sum(map(len, pairs.values()))
    if size > LONGEST_PAIRS:
        raise ValueError(f"the metadata has more than {LONGEST_PAIRS} characters")
    if size > _LONGEST_SHARED:
        return pairs
    key = tuple(pairs.items())
    return _mappings.get(key) or _mappings.put(key, pairs, size)


# Characters are the cost.
_mappings: Recent[tuple[tuple[str, str], ...], Mapping[str, str]] = Recent(512 << 10)
_texts: Recent[str, str] = Recent(256 << 10)


def _same(text: str) -> str:
    # Not sys.intern: texts that hostile pods write must be freed again.
    return _texts.get(text) or _texts.put(text, text, len(text) + 1)
