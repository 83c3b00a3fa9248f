"""go-micro's service record: what is read, what is refused, what is written."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from pymicro.nodes.document import LONGEST_PAIRS
from pymicro.nodes.endpoints import DEEPEST_VALUE, MOST_ENDPOINTS, MOST_VALUES
from pymicro.nodes.keys import label_problem, record_key, san, selector_key
from pymicro.nodes.node import Endpoint, Node, Value
from pymicro.nodes.record import LONGEST_RECORD, MOST_NODES, dump_record, load_record

# What a go-micro 1.18 gRPC server writes.
GO_MICRO = (
    '{"name":"greeter","version":"2020.01.20.09.15","metadata":null,"endpoints":[{"name":"Greeter.Hello",'
    '"request":{"name":"Request","type":"Request","values":[{"name":"name","type":"string","values":null}]},'
    '"response":{"name":"Response","type":"Response","values":[{"name":"msg","type":"string","values":null}]},'
    '"metadata":{}}],"nodes":[{"id":"greeter-4e18975a-cfb0-4e0b-9d6a-0f6a7d0b1c11","address":"10.1.2.3:8080",'
    '"metadata":{"broker":"http","protocol":"grpc","registry":"kubernetes","server":"grpc",'
    '"transport":"grpc"}}]}'
)


def record(**changes: Any) -> str:
    document: dict[str, Any] = {
        "name": "greeter",
        "version": "1",
        "metadata": None,
        "endpoints": None,
        "nodes": [{"id": "a", "address": "10.0.0.1:80", "metadata": None}],
    }
    document.update(changes)
    return json.dumps({key: value for key, value in document.items() if value is not ...})


def one_node(**fields: Any) -> str:
    return record(nodes=[{"id": "a", "address": "10.0.0.1:80", **fields}])


def addresses(text: str) -> list[str]:
    return [node.address for node in load_record(text).nodes]


# Keys


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("greeter", "greeter"),
        ("Greeter-2_x.y", "Greeter-2_x.y"),
        ("go.micro.srv/x", "go.micro.srv_x"),
        ("a b", "a_b"),
        ("größe", "gr____e"),  # each byte of UTF-8
        ("🚀x", "____x"),
    ],
)
def test_names_become_keys_byte_by_byte(name: str, key: str) -> None:
    assert san(name) == key
    assert selector_key(name) == f"micro.mu/selector-{key}"
    assert record_key(name) == f"micro.mu/service-{key}"


def test_a_name_of_54_bytes_is_the_longest_label() -> None:
    assert label_problem("x" * 54) == ""
    assert "54" in label_problem("x" * 55)
    assert "54" in label_problem("ß" * 27 + "x")


@pytest.mark.parametrize("name", ["", "greeter-", "greeter.", "greeter_", "größ", "服务", "a/"])
def test_a_name_whose_label_ends_badly_is_refused(name: str) -> None:
    assert label_problem(name)


# What is read


def test_a_record_of_go_micro_is_read_whole() -> None:
    found = load_record(GO_MICRO)
    string = Value("name", "string"), Value("msg", "string")
    assert found.problems == ()
    assert found.service == "greeter"
    assert found.nodes == (
        Node(
            "greeter-4e18975a-cfb0-4e0b-9d6a-0f6a7d0b1c11",
            "10.1.2.3:8080",
            "greeter",
            "2020.01.20.09.15",
            {
                "broker": "http",
                "protocol": "grpc",
                "registry": "kubernetes",
                "server": "grpc",
                "transport": "grpc",
            },
            (
                Endpoint(
                    "Greeter.Hello",
                    Value("Request", "Request", string[:1]),
                    Value("Response", "Response", string[1:]),
                ),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"address": "10.0.0.1:80"}, "10.0.0.1:80"),
        ({"address": "10.0.0.1", "port": 80}, "10.0.0.1:80"),
        ({"address": "[fd00::1]:80"}, "[fd00::1]:80"),
        ({"address": "fd00::1", "port": 80}, "[fd00::1]:80"),
        ({"address": "[fd00::1]", "port": 80}, "[fd00::1]:80"),
        ({"address": "10.0.0.1:80", "port": 0}, "10.0.0.1:80"),
        ({"address": "10.0.0.1:80", "port": None}, "10.0.0.1:80"),
        ({"address": "10.0.0.1:80", "port": 81}, "10.0.0.1:80"),
        ({"address": "greeter.local:80"}, "greeter.local:80"),
    ],
)
def test_both_shapes_of_an_address_are_read(fields: dict[str, Any], address: str) -> None:
    assert addresses(one_node(**fields)) == [address]


@pytest.mark.parametrize("empty", [None, {}, ...])
def test_maps_may_be_null_empty_or_missing(empty: Any) -> None:
    text = record(
        metadata=empty,
        nodes=[{"id": "a", "address": "10.0.0.1:80", "metadata": empty}]
        if empty is not ...
        else [{"id": "a", "address": "10.0.0.1:80"}],
    )
    (node,) = load_record(text).nodes
    assert node.metadata == {}


@pytest.mark.parametrize("empty", [None, [], ...])
def test_lists_may_be_null_empty_or_missing(empty: Any) -> None:
    assert load_record(record(nodes=empty)).nodes == ()
    (node,) = load_record(record(endpoints=empty)).nodes
    assert node.endpoints == ()


def test_a_missing_or_null_version_is_none() -> None:
    for empty in (None, ..., ""):
        assert load_record(record(version=empty)).nodes[0].version == ""


def test_keys_nobody_knows_and_their_order_change_nothing() -> None:
    document = json.loads(GO_MICRO)
    document["nodes"][0]["weight"] = 3
    document["endpoints"][0]["deprecated"] = [None, {"x": 1}]
    turned = json.dumps({"extra": [None], **dict(reversed(document.items()))}, indent=1)
    assert load_record(turned) == load_record(GO_MICRO)


def test_a_null_among_the_nodes_is_none() -> None:
    text = record(nodes=[None, {"id": "a", "address": "10.0.0.1:80"}, None])
    assert addresses(text) == ["10.0.0.1:80"]


def test_nulls_among_endpoints_and_values_are_none_and_hide_no_node() -> None:
    endpoint = {"name": "Greeter.Hello", "request": {"name": "R", "type": "R", "values": [None, None]}}
    for _ in range(2):  # read, and known from before
        (node,) = load_record(record(endpoints=[None, endpoint, None])).nodes
        assert node.endpoints == (Endpoint("Greeter.Hello", Value("R", "R")),)
    (node,) = load_record(record(endpoints=[None])).nodes
    assert node.endpoints == ()


# Records as releases of go-micro 1.x have written them

VARIANTS = {
    # A service without handlers, whose maps and lists Go never made.
    "all nil": (
        '{"name":"greeter","version":"latest","metadata":null,"endpoints":null,'
        '"nodes":[{"id":"greeter-1","address":"10.1.2.3:8080","metadata":null}]}',
        [Node("greeter-1", "10.1.2.3:8080", "greeter", "latest")],
    ),
    "1.0 to 1.7, with a port of its own": (
        '{"name":"greeter","version":"1.0.0","metadata":null,"endpoints":[],'
        '"nodes":[{"id":"greeter-a61b","address":"10.1.2.3","port":34567,"metadata":{"broker":"http",'
        '"registry":"kubernetes","server":"rpc","transport":"http"}},'
        '{"id":"greeter-a61c","address":"fd00::1","port":34568,"metadata":{}}]}',
        [
            Node(
                "greeter-a61b",
                "10.1.2.3:34567",
                "greeter",
                "1.0.0",
                {"broker": "http", "registry": "kubernetes", "server": "rpc", "transport": "http"},
            ),
            Node("greeter-a61c", "[fd00::1]:34568", "greeter", "1.0.0"),
        ],
    ),
    "the HTTP broker's subscribers": (
        '{"name":"go.micro.http.broker","version":"ff.http.broadcast","metadata":null,"endpoints":null,"nodes":'
        '[{"id":"go.micro.http.broker-5f","address":"10.1.2.3:10001","metadata":{"broker":"http",'
        '"secure":"false","topic":"news"}}]}',
        [
            Node(
                "go.micro.http.broker-5f",
                "10.1.2.3:10001",
                "go.micro.http.broker",
                "ff.http.broadcast",
                {"broker": "http", "secure": "false", "topic": "news"},
            )
        ],
    ),
    # A method of its own for streams: schemas of what Go saw, and none where that was nothing.
    "a stream, a slice and an endpoint without schemas": (
        '{"nodes":[{"metadata":{"protocol":"grpc"},"address":"10.1.2.3:8080","id":"g"}],"endpoints":['
        '{"name":"Greeter.Stream","request":{"name":"Context","type":"Context","values":null},"response":'
        '{"name":"Greeter_StreamStream","type":"Greeter_StreamStream","values":null},"metadata":{"stream":"true"}},'
        '{"name":"Func","request":{"name":"","type":"[]string","values":null},"response":null,"metadata":'
        '{"subscriber":"true","topic":"a\\u003cb"}}],"version":"1","name":"greeter"}',
        [
            Node(
                "g",
                "10.1.2.3:8080",
                "greeter",
                "1",
                {"protocol": "grpc"},
                (
                    Endpoint(
                        "Greeter.Stream",
                        Value("Context", "Context"),
                        Value("Greeter_StreamStream", "Greeter_StreamStream"),
                        {"stream": "true"},
                    ),
                    Endpoint("Func", Value("", "[]string"), None, {"subscriber": "true", "topic": "a<b"}),
                ),
            )
        ],
    ),
}


@pytest.mark.parametrize("what", VARIANTS)
def test_every_release_of_go_micro_1_is_read(what: str) -> None:
    text, nodes = VARIANTS[what]
    found = load_record(text)
    assert found.problems == ()
    assert list(found.nodes) == nodes


def test_a_bad_node_does_not_hide_the_good_ones() -> None:
    found = load_record(
        record(nodes=[{"id": "a", "address": "nowhere"}, {"id": "b", "address": "10.0.0.1:80"}])
    )
    assert [node.id for node in found.nodes] == ["b"]
    assert found.problems == ("'nowhere' has no port (host:port)",)


# What thousands of records have in common


def test_equal_endpoints_are_kept_once_however_they_come() -> None:
    endpoints = json.loads(GO_MICRO)["endpoints"]
    texts = [
        GO_MICRO,
        GO_MICRO.replace("10.1.2.3", "10.1.2.4"),
        GO_MICRO.replace("greeter-4e", "greeter-5e"),
    ]
    one, *others = (load_record(text).nodes[0].endpoints for text in texts)
    assert len(one) == 1
    assert all(other is one for other in others)
    spaced = record(endpoints=endpoints), record(endpoints=endpoints, version="2")
    two, three = (load_record(text).nodes[0].endpoints for text in spaced)
    assert two == one
    assert three is two


def test_equal_metadata_and_versions_are_kept_once() -> None:
    one, two = (load_record(GO_MICRO.replace("10.1.2.3", ip)).nodes[0] for ip in ("10.0.0.1", "10.0.0.2"))
    assert one.metadata is two.metadata
    assert one.version is two.version


def variants() -> Iterator[tuple[str, str]]:
    """Records that begin like GO_MICRO and go on otherwise, with what their first endpoint is called."""
    yield GO_MICRO.replace("Greeter.Hello", "Greeter.Bye"), "Greeter.Bye"
    yield GO_MICRO[:-1] + ',"endpoints":[{"name":"Last"}]}', "Last"
    yield (
        GO_MICRO.replace('"metadata":{}}],"nodes"', '"metadata":{}},{"name":"More"}],"nodes"'),
        "Greeter.Hello",
    )


def test_a_record_is_not_taken_for_another_that_begins_the_same() -> None:
    for text, first in variants():
        load_record(GO_MICRO)  # known from now on
        found = load_record(text).nodes[0].endpoints
        assert found[0].name == first
    load_record(GO_MICRO)
    assert len(load_record(list(variants())[-1][0]).nodes[0].endpoints) == 2


def test_endpoints_inside_something_else_are_not_the_services() -> None:
    inner = (
        '{"x":{"endpoints":[{"name":"Inner"}]},"name":"greeter","endpoints":[{"name":"Outer"}],'
        '"nodes":[{"id":"a","address":"10.0.0.1:80"}]}'
    )
    for _ in range(2):
        assert [one.name for one in load_record(inner).nodes[0].endpoints] == ["Outer"]


# What is refused

BAD_RECORDS = {
    "empty": "",
    "no JSON": "{",
    "no object": "[]",
    "null": "null",
    "name missing": record(name=...),
    "name empty": record(name=""),
    "name a number": record(name=3),
    "name too long": record(name="x" * 1000),
    "name half a character": record(name="\ud800"),
    "version a list": record(version=[]),
    "nodes an object": record(nodes={}),
    "nodes a text": record(nodes="10.0.0.1:80"),
    "endpoints a text": record(endpoints="Greeter.Hello"),
    "an endpoint a text": record(endpoints=["Greeter.Hello"]),
    "an endpoint without a name": record(endpoints=[{}]),
    "a schema a list": record(endpoints=[{"name": "x", "request": []}]),
    "nested": "[" * 100_000,
    "nested inside": '{"name":"greeter","x":' + "[" * 100_000,
    "too long": record(metadata={"x": "y" * LONGEST_RECORD}),
    "a number nobody can hold": '{"name":"greeter","x":' + "9" * 10_000 + "}",
}


@pytest.mark.parametrize("what", BAD_RECORDS)
def test_what_is_no_record_is_a_value_error(what: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_record(BAD_RECORDS[what])
    assert len(str(caught.value)) < 300


BAD_NODES = {
    "a text": "10.0.0.1:80",
    "no id": {"address": "10.0.0.1:80"},
    "id a number": {"id": 5, "address": "10.0.0.1:80"},
    "id too long": {"id": "x" * 1000, "address": "10.0.0.1:80"},
    "id with a line break": {"id": "a\nERROR forged", "address": "10.0.0.1:80"},
    "no address": {"id": "a"},
    "address without port": {"id": "a", "address": "10.0.0.1"},
    "port 0": {"id": "a", "address": "10.0.0.1:0"},
    "port too high": {"id": "a", "address": "10.0.0.1", "port": 70_000},
    "port negative": {"id": "a", "address": "10.0.0.1", "port": -1},
    "port true": {"id": "a", "address": "10.0.0.1", "port": True},
    "port a text": {"id": "a", "address": "10.0.0.1", "port": "80"},
    "port a fraction": {"id": "a", "address": "10.0.0.1", "port": 80.5},
    "a URL": {"id": "a", "address": "http://10.0.0.1:80"},
    "several addresses": {"id": "a", "address": "10.0.0.1,10.0.0.2:80"},
    "an interface": {"id": "a", "address": "[fe80::1%eth0]:80"},
    "a socket of this machine": {"id": "a", "address": "unix:123"},
    "a socket of another kind": {"id": "a", "address": "VSOCK:1"},
    "a scheme and a number": {"id": "a", "address": "dns", "port": 80},
    "a host with a blank": {"id": "a", "address": "10.0.0.1 x:80"},
    "a host with a line break": {"id": "a", "address": "10.0.0.1\n:80"},
    "an address of 100,000 characters": {"id": "a", "address": "x" * 100_000 + ":80"},
    "metadata a list": {"id": "a", "address": "10.0.0.1:80", "metadata": ["x"]},
    "metadata a number": {"id": "a", "address": "10.0.0.1:80", "metadata": {"x": 1}},
    "metadata null inside": {"id": "a", "address": "10.0.0.1:80", "metadata": {"x": None}},
    "metadata too much": {"id": "a", "address": "10.0.0.1:80", "metadata": {"x": "y" * 20_000}},
    "metadata too many": {
        "id": "a",
        "address": "10.0.0.1:80",
        "metadata": {str(number): "" for number in range(1000)},
    },
}


@pytest.mark.parametrize("what", BAD_NODES)
def test_a_node_that_cannot_be_used_is_said_and_left_out(what: str) -> None:
    found = load_record(record(nodes=[BAD_NODES[what]]))
    assert found.nodes == ()
    assert len(found.problems) == 1
    assert found.problems[0].isprintable()
    assert len(found.problems[0]) < 300


def test_no_more_nodes_than_a_process_can_have_are_read() -> None:
    nodes = [{"id": str(number), "address": "10.0.0.1:80"} for number in range(MOST_NODES + 1)]
    found = load_record(record(nodes=nodes))
    assert len(found.nodes) == MOST_NODES
    assert len(found.problems) == 1


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"name": "x", "type": "x"}
    for _ in range(levels - 1):
        value = {"name": "x", "type": "x", "values": [value]}
    return {"name": "Greeter.Hello", "request": value}


def wide(values: int) -> dict[str, Any]:
    inner = [{"name": "x", "type": "x"}] * (values - 1)
    return {"name": "Greeter.Hello", "request": {"name": "x", "type": "x", "values": inner}}


@pytest.mark.parametrize(
    ("endpoint", "kept"),
    [
        (deep(DEEPEST_VALUE), True),
        (deep(DEEPEST_VALUE + 1), False),
        (wide(MOST_VALUES), True),
        (wide(MOST_VALUES + 1), False),
    ],
)
def test_schemas_beyond_all_measure_are_dropped_and_the_node_stays(
    endpoint: dict[str, Any], kept: bool
) -> None:
    text = json.dumps(json.loads(record(endpoints=[endpoint])), separators=(",", ":"))
    (node,) = load_record(text).nodes
    assert bool(node.endpoints) is kept


@pytest.mark.parametrize(("count", "kept"), [(MOST_ENDPOINTS, MOST_ENDPOINTS), (MOST_ENDPOINTS + 1, 0)])
def test_endpoints_beyond_all_measure_are_dropped_and_the_node_stays(count: int, kept: int) -> None:
    # Empty ones hold no schema, and 17,000 of them fit into an annotation.
    endpoints = [{"name": "x"}] * count
    text = json.dumps(json.loads(record(endpoints=endpoints)), separators=(",", ":"))
    (node,) = load_record(text).nodes
    assert len(node.endpoints) == kept


def test_what_is_kept_of_hostile_records_is_bounded() -> None:
    def hostile(number: int) -> str:
        """As many objects as a record may have, and another text each time."""
        values = [{}] * (MOST_VALUES // MOST_ENDPOINTS - 1)
        schema = {"name": "", "type": "", "values": values}
        endpoints = [{"name": f"{number}.{one}", "request": schema} for one in range(MOST_ENDPOINTS - 8)]
        padding = {"padding": f"{number}" * (LONGEST_PAIRS // 8)}
        nodes = [{"id": "a", "address": "10.0.0.1:80", "metadata": padding}]
        document = {"name": f"s{number}", "version": "1", "endpoints": endpoints, "nodes": nodes}
        return json.dumps(document, separators=(",", ":"))

    assert load_record(hostile(0)).nodes[0].endpoints
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(100, 200):
            assert len(load_record(hostile(number)).nodes) == 1
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 16 << 20, f"{kept >> 20} MiB are kept"


# What is written

NODE = Node(
    "greeter-1",
    "10.0.0.1:8080",
    "greeter",
    "1.0",
    {"protocol": "grpc", "zone": "größe"},
    (
        Endpoint(
            "Greeter.Hello",
            Value("HelloRequest", "HelloRequest", (Value("name", "string"),)),
            None,
            {"stream": "true"},
        ),
        Endpoint("Greeter.Bye"),
    ),
)


def test_what_is_written_is_read_back() -> None:
    other = Node("greeter-2", "[fd00::1]:8080", "greeter", "1.0", {}, NODE.endpoints)
    found = load_record(dump_record([NODE, other]))
    assert found.nodes == (NODE, other)
    assert found.problems == ()


def nulls_in_lists(found: Any) -> int:
    if isinstance(found, dict):
        return sum(map(nulls_in_lists, found.values()))
    if isinstance(found, list):
        return sum(item is None or nulls_in_lists(item) > 0 for item in found)
    return 0


def test_what_is_written_has_go_micros_keys_and_never_a_null_in_a_list() -> None:
    document = json.loads(dump_record([NODE]))
    assert document == {
        "name": "greeter",
        "version": "1.0",
        "metadata": {},
        "endpoints": [
            {
                "name": "Greeter.Hello",
                "request": {
                    "name": "HelloRequest",
                    "type": "HelloRequest",
                    "values": [{"name": "name", "type": "string", "values": []}],
                },
                "response": None,
                "metadata": {"stream": "true"},
            },
            {"name": "Greeter.Bye", "request": None, "response": None, "metadata": {}},
        ],
        "nodes": [
            {"id": "greeter-1", "address": "10.0.0.1:8080", "metadata": {"protocol": "grpc", "zone": "größe"}}
        ],
    }
    assert nulls_in_lists(document) == 0


def test_endpoints_that_are_too_long_for_an_annotation_are_left_out() -> None:
    many = tuple(Endpoint(f"Greeter.{'x' * 100}{number}") for number in range(2000))
    text = dump_record([Node("a", "10.0.0.1:80", "greeter", "1", {}, many)])
    assert len(text) < LONGEST_RECORD / 2
    assert load_record(text).nodes == (Node("a", "10.0.0.1:80", "greeter", "1"),)


def test_a_record_that_is_too_long_even_so_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes"):
        dump_record([Node("a", "10.0.0.1:80", "greeter", "1", {"x": "y" * LONGEST_RECORD})])


def test_half_a_character_is_not_written() -> None:
    with pytest.raises(ValueError, match="unicode"):
        dump_record([Node("a", "10.0.0.1:80", "greeter", "\ud800")])
