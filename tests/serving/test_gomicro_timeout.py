"""go-micro's `timeout` in nanoseconds: a deadline of unary calls, and nothing at all of streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from pymicro.rpc.wire.metadata import NOT_STARTED
from pymicro.rpc.wire.status import FROM_PEER
from pymicro.serving.call.context import CallContext
from pymicro.serving.handlers import handler
from pymicro.settings.config import Config
from tests.protos import zoo_pb2 as pb
from tests.serving.gomicro_caller import JSON, NAMES, PROTOBUF, GoCaller, headers
from tests.serving.serving import eventually, serving
from tests.serving.test_foreign_interceptors import Seeing, passing
from tests.serving.test_handler_errors import all_shapes

KEEPER = pb.DESCRIPTOR.services_by_name["Keeper"]
CONFIG = Config(server_name="zoo")
AROUND = pytest.mark.parametrize(
    "around",
    [[], [passing], [Seeing()], [Seeing(), passing]],
    ids=["bare", "ours", "foreign", "both"],
)


@pytest.mark.parametrize(
    ("nanoseconds", "given", "low", "high"),
    [
        ("30000000000", None, 25, 30),
        ("30000000000", 20, 15, 20),
        ("15000000000", 20, 10, 15),
        ("junk", 20, 15, 20),
        ("junk", None, None, None),
        ("-5", None, None, None),
        ("1.5", None, None, None),
        ("9" * 19, None, None, None),
        ("9" * 4000, None, None, None),
        ("", None, None, None),
    ],
)
async def test_the_earlier_of_both_deadlines_holds_and_junk_is_ignored(
    nanoseconds: str, given: float | None, low: float | None, high: float | None
) -> None:
    left: list[float | None] = []

    async def act(context: CallContext) -> None:
        left.append(context.time_remaining())

    async with serving(all_shapes(act), config=CONFIG) as running:
        metadata = headers(PROTOBUF, nanoseconds)
        rpc = running.channel.unary_unary("/zoo.Keeper/Import")
        await rpc(b"", metadata=metadata, timeout=given)
    (seen,) = left
    if low is None or high is None:
        assert seen is None
    else:
        assert seen is not None
        assert low < seen <= high + 1  # grpc-timeout is rounded up


async def test_it_means_nothing_on_streams_and_from_others() -> None:
    left: list[float | None] = []

    async def act(context: CallContext) -> None:
        left.append(context.time_remaining())

    async with serving(all_shapes(act), config=CONFIG) as running:
        caller = GoCaller(running, metadata=headers(PROTOBUF, "1"))
        for name in NAMES[1:]:
            await caller.ask(name)
        rpc = running.channel.unary_unary("/zoo.Keeper/Import")
        await rpc(b"", metadata=(("timeout", "1"),))
    assert left == [None] * 4


@AROUND
async def test_when_it_passes_the_handler_is_cancelled_and_the_caller_told(around: list[Any]) -> None:
    ended: list[str] = []

    class Slow:
        @handler
        async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("cancelled" if context.cancelled() else "?")
                raise
            raise AssertionError

    async with serving(Slow(), source=KEEPER, config=CONFIG, interceptors=around) as running:
        for content_type in (PROTOBUF, JSON):
            empty = b"{}" if content_type == JSON else b""
            caller = GoCaller(running, metadata=headers(content_type, "100000000"))
            failure = await caller.failure("Import", empty)
            assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert failure.json == {
                "id": "zoo",
                "code": 408,
                "detail": "deadline exceeded",
                "status": "Request Timeout",
            }
            assert failure.trailers == dict([FROM_PEER])
        await eventually(lambda: running.server.in_progress == 0, "the calls are over")
    assert ended == ["cancelled", "cancelled"]


async def test_a_handler_that_catches_it_may_still_answer() -> None:
    class Stubborn:
        @handler
        async def import_(self, request: pb.Animal) -> pb.Animal:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return pb.Animal(name="late")
            raise AssertionError

    async with serving(Stubborn(), source=KEEPER, config=CONFIG) as running:
        caller = GoCaller(running, metadata=headers(PROTOBUF, "50000000"))
        assert await caller.ask("Import") == ["late"]


async def test_a_timeout_within_the_handler_is_no_deadline() -> None:
    class Impatient:
        @handler
        async def import_(self, request: pb.Animal) -> pb.Animal:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
            raise AssertionError

    async with serving(Impatient(), source=KEEPER, config=CONFIG) as running:
        failure = await GoCaller(running).failure("Import")
        assert failure.code is grpc.StatusCode.INTERNAL


class Impatient(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        async def give_up(request: Any, context: Any) -> Any:
            raise TimeoutError("the database")

        return grpc.unary_unary_rpc_method_handler(give_up)


async def test_a_timeout_within_an_interceptor_is_no_deadline() -> None:
    async with serving(source=KEEPER, config=CONFIG, interceptors=[Impatient()]) as running:
        failure = await GoCaller(running).failure("Import")
        assert failure.code is grpc.StatusCode.INTERNAL


@AROUND
async def test_a_call_whose_time_is_over_is_not_started(around: list[Any]) -> None:
    ran: list[str] = []

    async def act(context: CallContext) -> None:
        ran.append(context.method)

    async with serving(all_shapes(act), config=CONFIG, interceptors=around) as running:
        failure = await GoCaller(running, metadata=headers(PROTOBUF, "0")).failure("Import")
        assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert failure.json["detail"] == "the deadline had passed before the call was started"
        assert failure.trailers == dict([FROM_PEER, NOT_STARTED])
    assert ran == []


async def test_a_caller_that_leaves_before_ends_the_handler_as_always() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    class Slow:
        @handler
        async def import_(self, request: pb.Animal) -> pb.Animal:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError

        @handler
        async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
            yield pb.Animal()

    async with serving(Slow(), source=KEEPER, config=CONFIG) as running:
        call = running.channel.unary_unary("/zoo.Keeper/Import")(b"", metadata=headers())
        await started.wait()
        call.cancel()
        await ended.wait()
        await eventually(lambda: running.server.in_progress == 0, "the call is over")
