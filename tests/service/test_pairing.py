"""The ends of this run have the transports that its options ask for, in this process and in programs."""

from __future__ import annotations

import socket

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import CallContext, Client, MemoryRegistry, Service, handler
from tests.processes import Processes
from tests.transports import ENDS

# What each transport's clients say of themselves.
AGENTS = {"grpc": "grpc-python-asyncio/", "fast": "pymicro-fast "}
SERVERS = {"grpc": "GrpcServerTransport", "fast": "FastServerTransport"}


class Greeter:
    @handler
    async def say_hello(self, request: pb.HelloRequest, context: CallContext) -> pb.HelloReply:
        return pb.HelloReply(message=str(context.metadata.get("user-agent")))


async def test_both_ends_in_this_process() -> None:
    registry = MemoryRegistry()
    service = Service("greeter", registry=registry)
    service.add(Greeter(), pb, partial=True)
    async with service, Client(registry=registry) as client:
        reply = await rpc.GreeterStub(client.channel("greeter")).SayHello(pb.HelloRequest(), timeout=10)
        assert AGENTS[ENDS.client] in reply.message
        transport = service._running._server._transport  # type: ignore[union-attr]
        assert type(transport).__name__ == SERVERS[ENDS.server]


def test_a_server_that_is_a_program(processes: Processes) -> None:
    server = processes.pymicro("run", "examples/greeter/server.py")
    port = int(server.wait_for(r"greeter.*?127\.0\.0\.1:(\d+)")[1])
    with socket.create_connection(("127.0.0.1", port), 10) as raw, raw.makefile("rb") as answer:
        raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        head = answer.read(9)
        settings = answer.read(int.from_bytes(head[:3], "big"))
    assert head[3] == 4
    # Transport fast takes 1,000 streams of a connection, and grpc-core any number.
    assert ((3).to_bytes(2, "big") + (1000).to_bytes(4, "big") in settings) == (ENDS.server == "fast")
