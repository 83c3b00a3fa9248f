"""The registry record's endpoints, in go-micro's form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool

from pymicro.nodes.node import Endpoint, Node, Value
from pymicro.nodes.record import dump_record
from pymicro.serving.handlers import handler
from pymicro.serving.server import Server
from pymicro.settings.config import Config
from tests.protos import zoo_pb2 as pb
from tests.serving.test_dispatch import Keeper

FIELD = descriptor_pb2.FieldDescriptorProto


def test_endpoints_have_the_schemas_of_requests_and_responses() -> None:
    server = Server(Config())
    server.add(Keeper(), pb)
    by_name = {endpoint.name: endpoint for endpoint in server.endpoints()}
    assert list(by_name) == ["Keeper.Import", "Keeper.Watch", "Keeper.Count", "Keeper.Talk"]
    tally = Value("Tally", "Tally", (Value("count", "int32"),))
    query = Value("Query", "Query", (Value("name", "string"),))
    animal = by_name["Keeper.Import"].request
    assert animal is not None
    assert by_name["Keeper.Count"] == Endpoint("Keeper.Count", animal, tally, {"stream": "true"})
    assert by_name["Keeper.Watch"].request == query
    assert by_name["Keeper.Import"].metadata == {}
    fields = {value.name: value.type for value in animal.values}
    assert (animal.name, animal.type) == ("Animal", "Animal")
    assert fields == {
        "name": "string",
        "legs": "int32",
        "young": "[]Animal",
        "weights": "map[string]int64",
        "names": "[]string",
        "mood": "Mood",
    }


def test_a_message_that_contains_itself_ends_somewhere() -> None:
    server = Server(Config())
    server.add(Keeper(), pb)
    value, depth = server.endpoints()[0].request, 0
    while value is not None:
        value = next((field for field in value.values if field.name == "young"), None)
        depth += 1
    assert depth == 3


def test_no_list_of_the_record_has_a_null_in_it() -> None:
    """go-micro's client panics on one, whether among endpoints or values."""

    def lists(found: Any) -> Iterator[list[Any]]:
        if isinstance(found, list):
            yield found
        for item in found if isinstance(found, list) else found.values() if isinstance(found, dict) else ():
            yield from lists(item)

    async def bare(request: bytes, context: Any) -> bytes:
        return request

    server = Server(Config())
    server.add(Keeper(), pb)
    untyped = grpc.unary_unary_rpc_method_handler(bare)
    server.add_registered_method_handlers("some.Untyped", {"Do": untyped})
    node = Node("a", "127.0.0.1:1", service="zoo", version="1", endpoints=server.endpoints())
    found = list(lists(json.loads(dump_record([node]))))
    assert len(found) > 10
    assert not [one for one in found if None in one]


def test_names_and_types_are_those_of_gos_generated_structs() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="types.proto", package="types", syntax="proto3")
    order = file.message_type.add(name="order_form")
    kinds = ["double", "float", "bytes", "sint32", "fixed64", "sfixed32", "bool", "uint32"]
    for number, kind in enumerate(kinds, 1):
        order.field.add(name=f"a_{kind}", number=number, type=FIELD.Type.Value(f"TYPE_{kind.upper()}"))
    item = order.nested_type.add(name="LineItem")
    item.enum_type.add(name="Kind").value.add(name="NONE", number=0)
    item.field.add(name="kind", number=1, type_name=".types.order_form.LineItem.Kind", type=FIELD.TYPE_ENUM)
    order.field.add(
        name="line_item", number=9, type=FIELD.TYPE_MESSAGE, type_name=".types.order_form.LineItem"
    )
    order.field.add(name="parts", number=10, type=FIELD.TYPE_BYTES, label=FIELD.LABEL_REPEATED)
    file.service.add(name="Shop").method.add(
        name="Buy", input_type=".types.order_form", output_type=".types.order_form"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)

    class Shop:
        @handler
        async def buy(self, request: object) -> object:
            return request

    server = Server(Config())
    server.add(Shop(), pool.FindServiceByName("types.Shop"))
    (endpoint,) = server.endpoints()
    assert endpoint.name == "Shop.Buy"
    assert endpoint.request is not None
    assert (endpoint.request.name, endpoint.request.type) == ("OrderForm", "OrderForm")
    types = ["float64", "float32", "[]uint8", "int32", "uint64", "int32", "bool", "uint32"]
    assert list(endpoint.request.values) == [
        *(Value(f"a_{kind}", go) for kind, go in zip(kinds, types, strict=True)),
        Value("line_item", "OrderForm_LineItem", (Value("kind", "OrderForm_LineItem_Kind"),)),
        Value("parts", "[][]uint8"),
    ]
