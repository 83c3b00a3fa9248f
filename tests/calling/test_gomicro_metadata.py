"""Who calls: `micro-from-service`, and the user agent by which pymicro's callers are told apart."""

from __future__ import annotations

import itertools
from typing import Any

import grpc.aio
import pytest

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import Client, MemoryRegistry, Service, Unavailable, __version__, handler

from .backends import backend, count_down, greeter, hello, stub
from .go_server import go_servers

FROM = "micro-from-service"
_numbers = itertools.count()


async def _seen(client: Client, metadata: Any = None, **channel: Any) -> dict[str, Any]:
    """What a backend sees of a call."""
    registry: Any = client.registry
    async with backend(registry, service := f"seen-{next(_numbers)}") as server:
        await stub(client, service, **channel).SayHello(hello(), metadata=metadata)
        return server.metadata[0]


async def test_a_named_client_says_who_calls_in_all_four_shapes() -> None:
    async with greeter(server_name="front") as (client, _, (server,)):
        greet = stub(client)
        await greet.SayHello(hello())
        assert [one.number async for one in greet.CountDown(count_down(1))] == [1]
        await greet.GreetAll(iter([hello()]))
        assert [one.text async for one in greet.Chat(iter([pb.ChatMessage(text="x")]))] == ["X"]
        assert [metadata[FROM] for metadata in server.metadata] == ["front"] * 4


async def test_a_client_without_a_name_says_nothing() -> None:
    async with greeter(0) as (client, _, _):
        assert FROM not in await _seen(client)
        assert FROM not in await _seen(client, (("a", "b"),))


@pytest.mark.parametrize(
    "own", [(("a", "b"),), [("a", "b")], grpc.aio.Metadata(("a", "b")), (), None], ids=repr
)
async def test_metadata_of_the_calls_own_stays_beside_it(own: Any) -> None:
    async with greeter(0, server_name="front") as (client, _, _):
        found = await _seen(client, own)
        assert found[FROM] == "front"
        assert found.get("a") == ("b" if own else None)


async def test_what_the_call_says_itself_wins() -> None:
    async with greeter(0, server_name="front") as (client, _, _):
        assert (await _seen(client, ((FROM, "someone"),)))[FROM] == "someone"


async def test_interceptors_have_the_last_word_and_the_header_is_there_once() -> None:
    async def rename(call: Any, proceed: Any) -> Any:
        call.metadata[FROM] = "renamed"
        return await proceed()

    async with greeter(0, server_name="front") as (client, _, _):
        assert (await _seen(client, interceptors=[rename]))[FROM] == "renamed"

        async def untouched(call: Any, proceed: Any) -> Any:
            return await proceed()

        assert (await _seen(client, interceptors=[untouched]))[FROM] == "front"


@pytest.mark.parametrize("name", ["größe", "two\nlines"])
async def test_a_name_that_no_header_can_carry_is_left_out(name: str) -> None:
    async with greeter(0, server_name=name) as (client, _, _):
        assert FROM not in await _seen(client)


@pytest.mark.parametrize("listed", [False, True])
async def test_an_onward_call_says_who_makes_it_and_not_who_made_the_call_before(listed: bool) -> None:
    forwarded = ("x-request-id", *((FROM,) if listed else ()))

    class Front:
        @handler
        async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
            reply: pb.HelloReply = await behind.SayHello(request)
            return reply

    registry = MemoryRegistry()
    async with registry, backend(registry, "behind") as server:
        service = Service("front", registry=registry, forward_metadata=forwarded)
        service.add(Front(), pb, partial=True)
        behind = rpc.GreeterStub(service.channel("behind"))
        async with service, Client(registry=registry, server_name="edge") as edge:
            greet = rpc.GreeterStub(edge.channel("front"))
            await greet.SayHello(hello(), metadata=(("x-request-id", "7"),))
        (metadata,) = server.metadata
        assert (metadata[FROM], metadata["x-request-id"]) == ("front", "7")


async def test_the_user_agent_names_pymicro_before_grpc_unless_told_otherwise() -> None:
    async with greeter(0, server_name="front") as (client, _, _):
        agent = (await _seen(client))["user-agent"]
        assert agent.startswith(f"pymicro/{__version__} grpc-python-asyncio/")
        options = (("grpc.primary_user_agent", "shop/2"),)
        assert (await _seen(client, options=options))["user-agent"].startswith("shop/2 grpc-python-asyncio/")


async def test_headers_of_go_micros_own_codec_and_timeout_are_not_sent() -> None:
    async with greeter(0, server_name="front") as (client, _, _):
        found = await _seen(client)
        assert set(found) == {"user-agent", FROM}


async def test_another_attempt_says_it_too() -> None:
    settings: dict[str, Any] = {"server_name": "front", "client_retries": 1}
    async with go_servers(2, **settings) as (client, servers):
        call = client.channel("orders", idempotent=["Call"]).unary_unary("/orders.Orders/Call")
        with pytest.raises(Unavailable):
            await call(b"503 later")
        seen = [metadata for server in servers for metadata in server.metadata]
        assert [metadata[FROM] for metadata in seen] == ["front", "front"]
        assert sorted(metadata.get("pymicro-previous-attempts", "0") for metadata in seen) == ["0", "1"]
