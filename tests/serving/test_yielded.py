"""What a lifespan yielded is in the context of every call, whatever serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pymicro.base.errors import PymicroError
from pymicro.serving.call.context import CallContext, current
from pymicro.serving.handlers import handler
from pymicro.serving.server import Server
from pymicro.serving.yielded import Yielded
from tests.protos import zoo_pb2 as pb
from tests.protos import zoo_pb2_grpc
from tests.serving.serving import everything_in, serving


class Farm:
    """The state of a service."""

    def __init__(self, name: str) -> None:
        self.name = name


class Keeper:
    """Answers with the state's name, in each shape; one of them in a thread."""

    @handler("Import")
    def take(self, request: Any, context: CallContext[Farm]) -> Any:
        return pb.Animal(name=context.state.name)

    @handler
    async def watch(self, request: Any) -> AsyncIterator[Any]:
        farm: Farm = current().state
        yield pb.Animal(name=farm.name)

    @handler
    async def count(self, requests: Any, context: CallContext[Farm]) -> Any:
        return pb.Tally(count=len(context.state.name))

    @handler
    async def talk(self, requests: Any, context: CallContext[Farm]) -> AsyncIterator[Any]:
        yield pb.Animal(name=context.state.name)


class Servicer(zoo_pb2_grpc.KeeperServicer):  # type: ignore[misc]
    """As written for grpc.aio."""

    async def Import(self, request: Any, context: Any) -> Any:
        return pb.Animal(name=context.state.name)

    async def Watch(self, request: Any, context: Any) -> None:
        await context.write(pb.Animal(name=context.state.name))

    async def Count(self, requests: Any, context: Any) -> Any:
        return pb.Tally(count=len(context.state.name))

    async def Talk(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        yield pb.Animal(name=context.state.name)


def opened() -> Yielded:
    yielded = Yielded("zoo", expected=True)
    yielded.open(Farm("hen house"))
    return yielded


@pytest.mark.parametrize("made", [Keeper, Servicer])
async def test_handlers_of_all_shapes_see_it(made: Any) -> None:
    async with serving(made(), yielded=opened()) as running:
        for name in ("Import", "Watch", "Talk"):
            assert "hen house" in await running.ask(name)
        assert await running.ask("Count") == ["9"]


async def test_it_is_there_under_interceptors_of_both_kinds() -> None:
    seen = []

    async def ours(call: CallContext[Farm], proceed: Any) -> Any:
        seen.append(call.state.name)
        return await proceed()

    class Foreign(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            return await continuation(details)

    async with serving(Servicer(), yielded=opened(), interceptors=[ours, Foreign()]) as running:
        assert await running.ask("Import") == ["hen house"]
        assert await running.ask("Talk") == ["hen house"]
    assert seen == ["hen house", "hen house"]


async def test_a_health_of_the_users_own_sees_it() -> None:
    class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
        async def Check(self, request: Any, context: Any) -> Any:
            assert context.state.name == "hen house"
            return health_pb2.HealthCheckResponse(status=2)

    def add(server: Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(Health(), server)

    async with serving(Keeper(), add=add, yielded=opened()) as running:
        check = running.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        assert (await check(health_pb2.HealthCheckRequest())).status == 2


async def test_without_a_lifespan_the_log_says_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Keeper()) as running:
        error = await running.failure("Import")
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "lifespan" not in everything_in(error)
    assert "has no state: it is what a lifespan yields, as in Service(…, lifespan=" in caplog.text


def test_it_is_there_from_the_opening_to_the_closing_of_the_lifespan() -> None:
    yielded, farm = Yielded("zoo", expected=True), Farm("hen house")
    with pytest.raises(PymicroError, match="has not opened yet"):
        yielded.get()
    yielded.open(farm)
    assert yielded.get() is farm
    yielded.close()
    with pytest.raises(PymicroError, match="the state of zoo is gone: its lifespan has closed"):
        yielded.get()
