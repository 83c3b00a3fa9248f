"""Parsers of nodes: records, values of etcd, files of registry `local`, and what mdns carries."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from pymicro.discovery.registries.etcd.table import ServiceTable, Unreadable, read_value
from pymicro.discovery.registries.local.json import dump_node, load_node
from pymicro.discovery.registries.mdns import messages, names, text
from pymicro.nodes.address import join_address, split_address
from pymicro.nodes.node import Endpoint, Node, NodeSet, Value
from pymicro.nodes.record import dump_record, load_record
from pymicro.nodes.wellknown import other_protocol, ping_interval
from tests.fuzz.inputs import TEXTS, altered, altered_bytes, as_json
from tests.fuzz.parser import Parser

__all__ = ["PARSERS", "RECORD"]

# Nodes as a service writes them

_WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
_PAIRS = st.dictionaries(
    TEXTS.filter(lambda text: text.isprintable()), TEXTS.filter(str.isprintable), max_size=4
)
_SCHEMAS = st.recursive(
    st.builds(Value, _WORDS, _WORDS),
    lambda inner: st.builds(Value, _WORDS, _WORDS, st.lists(inner, max_size=3).map(tuple)),
    max_leaves=6,
)
_ENDPOINTS = st.builds(Endpoint, _WORDS, st.none() | _SCHEMAS, st.none() | _SCHEMAS, _PAIRS)
_ADDRESSES = st.builds(join_address, st.ip_addresses().map(str), st.integers(1, 65535))
_NODES = st.builds(
    Node,
    id=_WORDS,
    address=_ADDRESSES,
    service=_WORDS,
    version=TEXTS.filter(str.isprintable).map(lambda one: one[:500]),
    metadata=_PAIRS,
    endpoints=st.lists(_ENDPOINTS, max_size=3).map(tuple),
)

RECORD = {
    "name": "greeter",
    "version": "1",
    "metadata": {},
    "endpoints": [
        {
            "name": "Greeter.Hello",
            "request": {"name": "R", "type": "R", "values": [{"name": "a", "type": "s"}]},
            "response": None,
            "metadata": {"stream": "true"},
        },
        None,
    ],
    "nodes": [
        {"id": "a", "address": "10.0.0.1:80", "metadata": {"protocol": "grpc", "keepalive": "10s"}},
        {"id": "b", "address": "10.0.0.1", "port": 81, "metadata": None},
        {"id": "c", "address": "[::1]:80"},
    ],
}  # fmt: skip
_RECORDS = as_json(altered(RECORD))


def _record(found: str | Node) -> None:
    if isinstance(found, Node):
        (again,) = load_record(dump_record([found])).nodes
        assert again == found
        assert again.endpoints == found.endpoints
        return
    record = load_record(found)
    for node in record.nodes:
        assert node.id.isprintable()
        host, port = split_address(node.address)
        assert host
        assert 0 < port < 65536
        ping_interval(node.metadata), other_protocol(node.metadata)
    # What was read can be written, and is the same then; a few show it.
    for node in record.nodes[:3]:
        assert load_record(dump_record([node])).nodes == (node,)
    assert all(len(problem) < 1000 for problem in record.problems)
    assert NodeSet.of(record.nodes) == NodeSet.of(record.nodes)


def _etcd(found: bytes) -> None:
    reading = read_value(found)
    table = ServiceTable(reading.service or "greeter", Unreadable())
    table.replace({"/micro/registry/x/y": reading})
    assert len(table.nodes()) <= len(reading.nodes)


def _local(found: bytes | Node) -> None:
    if isinstance(found, Node):
        assert load_node(dump_node(found)) == found
        return
    node = load_node(found)
    assert load_node(dump_node(node)) == node


_NODE_FILE = {
    **RECORD["nodes"][0],
    "service": "greeter",
    "version": "1",
    "endpoints": RECORD["endpoints"][:1],
}  # type: ignore[index]

# mdns

_TEXT = {
    "Service": "greeter",
    "Version": "1",
    "Endpoints": RECORD["endpoints"],
    "Metadata": {"protocol": "grpc"},
}


def _mdns_text(found: bytes | Node) -> None:
    if isinstance(found, Node):
        said = text.load(text.dump(found))
        assert (said.service, said.version, said.metadata) == (found.service, found.version, found.metadata)
        assert said.endpoints == found.endpoints
        return
    text.load(found)


def _packed(document: str) -> bytes:
    import zlib

    return zlib.compress(document.encode(errors="surrogatepass")).hex().encode()


_INSTANCE = messages.Instance(
    "a.greeter.micro.", "host.", 80, "10.0.0.1", text.dump(Node("a", "10.0.0.1:80", "greeter"))
)
_PACKETS = (
    messages.write_answer(_INSTANCE, pointer="greeter.micro."),
    messages.write_answer(_INSTANCE, ttl=0),
    messages.write_answer(
        messages.Instance("greeter._services.micro.", "host.", 9, "::1"), pointer=names.SERVICES
    ),
    messages.write_query(messages.MdnsQuestion("greeter.micro.")),
    messages.write_query(messages.MdnsQuestion("a.greeter.micro.", messages.ANY, unicast=True), id=7),
)


def _mdns_packet(found: bytes) -> None:
    message = messages.read(found)
    if isinstance(message, messages.Query):
        for question in message.questions:
            names.service_of(question.name)
        return
    for pointer in message.pointers:
        names.listed_service(pointer.target)
    for seen in message.instances:
        names.node_id(seen.name, names.service_of(seen.name))


PARSERS = (
    Parser("record", _RECORDS | _NODES, _record, (ValueError,)),
    Parser(
        "etcd value",
        _RECORDS.map(lambda one: one.encode(errors="surrogatepass"))
        | altered_bytes(json.dumps(RECORD).encode()),
        _etcd,
    ),
    Parser(
        "node file",
        as_json(altered(_NODE_FILE)).map(lambda one: one.encode(errors="surrogatepass")) | _NODES,
        _local,
        (ValueError,),
    ),
    Parser(
        "mdns text",
        as_json(altered(_TEXT)).map(_packed) | altered_bytes(_INSTANCE.text) | _NODES,
        _mdns_text,
        (ValueError,),
    ),
    Parser("mdns packet", altered_bytes(*_PACKETS), _mdns_packet, (ValueError,)),
)
