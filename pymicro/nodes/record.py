"""go-micro's service record as JSON.

The form is go-micro 1.x's (`registry.Service`): a service with its endpoints and
nodes. Readers accept records of any release since 1.0, in any order, with keys left
out, null or unknown. Anybody who may write to a pod can write a record, so everything
in it is checked and bounded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymicro.base.printable import excerpt
from pymicro.base.recent import Recent
from pymicro.nodes.address import is_scheme, join_address, split_address
from pymicro.nodes.document import as_object, load_text, read_list, read_pairs, read_text
from pymicro.nodes.endpoints import LONGEST_KNOWN, dump_endpoints, load_endpoints, share_endpoints
from pymicro.nodes.node import Endpoint, Node

__all__ = ["ServiceRecord", "dump_record", "load_record"]

# The limit for all annotations of an object together (apimachinery, TotalAnnotationSizeLimitB).
LONGEST_RECORD = 256 << 10
# The most nodes of one record: a process registers one, or a few.
MOST_NODES = 512
# Ids, versions, hosts and service names end up in log lines and error messages.
LONGEST_TEXT = 512
MOST_PAIRS_IN_ALL = 8192

# Characters of a record before its endpoints: its name, its version and its metadata.
_LONGEST_START = 4 << 10

_ENDPOINTS = '"endpoints":['


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
            raise ValueError(f"the record of {excerpt(last.service)} is no valid unicode") from None
        if size <= LONGEST_RECORD // 2:
            return text
        document["endpoints"] = None
    raise ValueError(f"the record of {excerpt(last.service)} has {size} bytes without its endpoints")


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


_texts: Recent[str, str] = Recent(256 << 10)


def _same(text: str) -> str:
    # Not sys.intern: texts that hostile pods write must be freed again.
    return _texts.get(text) or _texts.put(text, text, len(text) + 1)


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
    if at >= 0 and found and len(text) <= 2 * LONGEST_KNOWN:
        value, end = json.JSONDecoder().raw_decode(text, start)
        if value == found and end - start <= LONGEST_KNOWN:
            endpoints = load_endpoints(text[start:end], nulls=True, listed=found)
            if endpoints:
                _known.put(text[:start], text[start:end], end)
            return document, endpoints
    return document, share_endpoints(found, nulls=True)


def _node(found: Any, service: str, version: str, endpoints: tuple[Endpoint, ...]) -> Node:
    item = as_object(found)
    node_id = read_text(item, "id", longest=LONGEST_TEXT)
    if not node_id.isprintable():
        raise ValueError(f"node id {excerpt(node_id)} is not printable")
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
        raise ValueError(f"{excerpt(number)} is no port")
    # Addresses are used in log lines and in grpc's targets.
    odd = not host.isprintable() or any(char in host for char in " /@%,") or is_scheme(host)
    if not host or not port or odd:
        raise ValueError(f"address {excerpt(text)} cannot be dialled")
    return join_address(host, port)
