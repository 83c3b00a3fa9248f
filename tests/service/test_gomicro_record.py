"""What a service registers, as go-micro 1.18 writes and reads it."""

from __future__ import annotations

import json
import re
from typing import Any

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import MemoryRegistry, Service
from pymicro.nodes.record import dump_record, load_record
from tests.calling.backends import Backend

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def _holes(found: Any) -> int:
    """Nulls anywhere: in a list they end a Go client, as a schema `micro` shows an empty one."""
    if isinstance(found, dict):
        return sum(map(_holes, found.values()))
    return sum(map(_holes, found)) if isinstance(found, list) else found is None


async def test_its_record_has_go_micros_id_keys_and_schemas_and_no_hole() -> None:
    registry = MemoryRegistry()
    service = Service("greeter", version="1.2", registry=registry)
    rpc.add_GreeterServicer_to_server(Backend(), service)
    async with registry, service:
        text = dump_record([service.node])
        document = json.loads(text)
        (node,) = document["nodes"]
        assert re.fullmatch(f"greeter-{UUID}", node["id"])
        assert node["address"] == service.address
        wanted = {"protocol": "grpc", "server": "grpc", "transport": "grpc"}
        assert wanted.items() <= node["metadata"].items()
        assert (document["name"], document["version"]) == ("greeter", "1.2")
        assert _holes(document) == 0
        endpoints = {endpoint["name"]: endpoint for endpoint in document["endpoints"]}
        hello = endpoints["Greeter.SayHello"]
        assert hello["request"]["name"] == pb.HelloRequest.DESCRIPTOR.name
        assert {"name": "name", "type": "string", "values": []} in hello["request"]["values"]
        assert "stream" not in hello["metadata"]
        for name in ("CountDown", "GreetAll", "Chat"):
            assert endpoints[f"Greeter.{name}"]["metadata"] == {"stream": "true"}
        assert load_record(text).nodes == (service.node,)
