"""One form of interceptor for all four shapes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from pymicro.base.errors import ConfigError
from pymicro.identity.accepted import api_keys
from pymicro.rpc.interceptors import Proceed
from pymicro.rpc.status import NotFound, PermissionDenied, Unauthenticated
from pymicro.serving.call.context import CallContext, current
from pymicro.serving.handlers import handler
from pymicro.serving.interceptors import split
from tests.protos import zoo_pb2 as pb
from tests.serving.serving import eventually, everything_in, serving
from tests.serving.test_dispatch import Keeper

KEEPER = pb.DESCRIPTOR.services_by_name["Keeper"]
NAMES = ("Import", "Watch", "Count", "Talk")


async def test_interceptors_run_in_order_around_every_shape() -> None:
    seen: list[str] = []

    def named(name: str) -> Any:
        async def intercept(call: CallContext, proceed: Proceed) -> Any:
            assert current() is call
            seen.append(f"{name} {call.method.rpartition('/')[2]} {call.shape.value}")
            response = await proceed()
            seen.append(f"{name} {type(response).__name__}")
            return response

        return intercept

    async with serving(Keeper(), interceptors=[named("a"), named("b")]) as running:
        for name, shape, response, answer in (
            ("Import", "unary_unary", "Animal", ["ANT"]),
            ("Watch", "unary_stream", "NoneType", ["ant0", "ant1", "ant2"]),
            ("Count", "stream_unary", "Tally", ["1"]),
            ("Talk", "stream_stream", "NoneType", ["ANT"]),
        ):
            assert await running.ask(name) == answer
            await eventually(lambda: running.server.in_progress == 0, "the call has ended")
            assert seen == [f"a {name} {shape}", f"b {name} {shape}", f"b {response}", f"a {response}"]
            seen.clear()


async def test_an_interceptor_refuses_by_raising_and_nothing_runs() -> None:
    async def closed(call: CallContext, proceed: Proceed) -> Any:
        raise Unauthenticated("who are you?")

    class Never:
        @handler("Import")
        async def import_(self, request: pb.Animal) -> pb.Animal:
            raise AssertionError

        @handler("Talk")
        async def talk(self, requests: Any) -> AsyncIterator[pb.Animal]:
            raise AssertionError
            yield

    async with serving(Never(), source=KEEPER, interceptors=[closed]) as running:
        for name in ("Import", "Talk"):
            error = await running.failure(name, ends=False)
            assert (error.code(), error.details()) == (grpc.StatusCode.UNAUTHENTICATED, "who are you?")


async def test_interceptors_turn_exceptions_into_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def translate(call: CallContext, proceed: Proceed) -> Any:
        try:
            return await proceed()
        except LookupError as exc:
            raise NotFound(f"no {call.metadata['x-what']}") from exc

    class Missing:
        @handler
        async def import_(self, request: pb.Animal) -> pb.Animal:
            raise KeyError("secret")

        @handler
        async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
            yield pb.Animal()
            raise KeyError("secret")

        @handler
        async def count(self, requests: Any) -> pb.Tally:
            raise KeyError("secret")

        @handler
        async def talk(self, requests: Any) -> AsyncIterator[pb.Animal]:
            raise KeyError("secret")
            yield

    async with serving(Missing(), source=KEEPER, interceptors=[translate]) as running:
        for name in NAMES:
            error = await running.failure(name, ends=False, metadata=[("x-what", "ant")])
            assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no ant")
            assert "secret" not in everything_in(error)
    assert not caplog.records


async def test_messages_are_mapped_outermost_first_for_requests_and_last_for_responses() -> None:
    def adding(mark: str) -> Any:
        def plain(message: Any) -> Any:
            message.name += mark
            return message

        async def waiting(message: Any) -> Any:
            await asyncio.sleep(0)
            return type(message)(name=message.name + mark.upper())

        async def intercept(call: CallContext, proceed: Proceed) -> Any:
            call.map_requests(plain)
            call.map_responses(waiting)
            return await proceed()

        return intercept

    class Echo:
        @handler
        async def import_(self, request: pb.Animal) -> pb.Animal:
            return pb.Animal(name=request.name + "-")

        @handler
        async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
            for number in range(2):
                yield pb.Animal(name=f"{request.name}{number}")

        @handler
        async def talk(self, requests: Any) -> AsyncIterator[pb.Animal]:
            async for request in requests:
                yield pb.Animal(name=request.name + "-")

    async with serving(Echo(), source=KEEPER, interceptors=[adding("a"), adding("b")]) as running:
        assert await running.ask("Import", "x") == ["xab-BA"]
        assert await running.ask("Watch", "x") == ["xab0BA", "xab1BA"]
        assert await running.ask("Talk", "x", "y") == ["xab-BA", "yab-BA"]


async def test_an_interceptor_may_answer_itself_or_replace_the_answer() -> None:
    async def cached(call: CallContext, proceed: Proceed) -> Any:
        if "x-cached" in call.metadata:
            return pb.Animal(name="cached") if call.method.endswith("Import") else None
        await proceed()
        return pb.Animal(name="replaced")

    async with serving(Keeper(), interceptors=[cached]) as running:
        assert await running.ask("Import") == ["replaced"]
        assert await running.ask("Import", metadata=[("x-cached", "1")]) == ["cached"]
        assert await running.ask("Watch", metadata=[("x-cached", "1")]) == []


async def test_an_interceptor_that_returns_nothing_or_proceeds_twice_is_an_internal_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def forgetful(call: CallContext, proceed: Proceed) -> Any:
        await proceed()

    async def twice(call: CallContext, proceed: Proceed) -> Any:
        await proceed()
        return await proceed()

    for interceptor, words in ((forgetful, "found NoneType"), (twice, "proceeded twice")):
        async with serving(Keeper(), interceptors=[interceptor]) as running:
            error = await running.failure("Import")
            assert error.code() is grpc.StatusCode.INTERNAL
        assert words in caplog.text


async def test_cancelling_reaches_the_interceptor_and_then_the_handlers_generator() -> None:
    seen: list[str] = []

    class Endless:
        @handler("Watch")
        async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
            task = asyncio.current_task()
            try:
                while True:
                    yield pb.Animal(name="x" * 60_000)
            finally:
                await asyncio.sleep(0)
                seen.append(f"generator, same task: {asyncio.current_task() is task}")

    async def watching(call: CallContext, proceed: Proceed) -> Any:
        try:
            return await proceed()
        except asyncio.CancelledError:
            seen.append(f"interceptor, cancelled: {call.cancelled()}")
            raise

    async with serving(Endless(), source=KEEPER, interceptors=[watching]) as running:
        call = running.rpc("Watch")(pb.Query())
        await call.read()
        call.cancel()
        await eventually(lambda: len(seen) == 2, "both have ended")
    assert seen == ["generator, same task: True", "interceptor, cancelled: True"]


async def test_an_interceptor_may_bound_a_call_in_time() -> None:
    async def bounded(call: CallContext, proceed: Proceed) -> Any:
        try:
            # A task of its own in Python 3.11: nothing may rest on the current one.
            return await asyncio.wait_for(proceed(), 0.05)
        except TimeoutError:
            raise PermissionDenied("too slow") from None

    class Slow:
        @handler
        async def import_(self, request: pb.Animal) -> pb.Animal:
            await asyncio.Event().wait()
            raise AssertionError

        @handler
        async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
            yield pb.Animal(name="one")
            await asyncio.Event().wait()

    async with serving(Slow(), source=KEEPER, interceptors=[bounded]) as running:
        for name in ("Import", "Watch"):
            assert (await running.failure(name)).details() == "too slow"


async def test_health_and_reflection_are_not_behind_a_services_own_interceptors() -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async def closed(call: CallContext, proceed: Proceed) -> Any:
        raise Unauthenticated("who are you?")

    async with serving(Keeper(), interceptors=[closed]) as running:
        reply = await health_pb2_grpc.HealthStub(running.channel).Check(health_pb2.HealthCheckRequest())
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_each_call_is_a_line_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    class Some:
        @handler
        async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            if request.name == "abort":
                await context.abort(grpc.StatusCode.ABORTED, "no")
            if request.name:
                raise NotFound("no")
            return pb.Animal()

    caplog.set_level(logging.DEBUG, "pymicro.server")
    async with serving(Some(), source=KEEPER) as running:
        await running.ask("Import", "")
        await running.failure("Import", "x")
        await running.failure("Import", "abort")
    lines = [r.getMessage() for r in caplog.records if " ms" in r.getMessage()]
    assert len(lines) == 3
    for line, outcome in zip(lines, ("OK", "NOT_FOUND", "aborted StatusCode.ABORTED"), strict=True):
        assert f": {outcome} in " in line
        assert line.startswith("/pymicro.tests.zoo.Keeper/Import from ipv4:127.0.0.1:")


def test_what_is_no_interceptor_is_a_config_error() -> None:
    class Foreign(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            return await continuation(handler_call_details)

    async def ours(call: CallContext, proceed: Proceed) -> Any:
        return await proceed()

    foreign, accepted = Foreign(), api_keys("keys.toml")
    assert split([foreign, accepted, ours]) == ((ours,), (foreign,), (accepted,))
    with pytest.raises(ConfigError, match="Foreign is a class: give an instance"):
        split([Foreign])
    with pytest.raises(ConfigError, match="7 is neither"):
        split([7])  # type: ignore[list-item]
