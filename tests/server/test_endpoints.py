"""The registry record's endpoints, in go-micro's form."""

from __future__ import annotations

from pymicro.config import Config
from pymicro.node import Endpoint, Value
from pymicro.server.server import Server
from tests.protos import zoo_pb2 as pb
from tests.server.test_dispatch import Keeper


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
    assert depth == 4
