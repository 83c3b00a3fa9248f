"""Each call that is served is counted once, with the status that its caller got."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

import pymicro
from pymicro.base.recorder import OTHER, ServerRecord
from pymicro.serving.call.context import CallContext
from pymicro.serving.handlers import handler
from pymicro.settings.config import Config
from tests.protos import zoo_pb2 as pb
from tests.serving.serving import ZOO, eventually, serving
from tests.serving.test_admission import AROUND, KEEPER, SHAPES, Waiting


class Moody:
    """Four handlers that do as the first word says."""

    async def _do(self, word: str, context: CallContext) -> pb.Animal:
        if word == "raise":
            raise KeyError("the password is 1234")
        if word == "refuse":
            raise pymicro.NotFound("no such animal")
        if word == "abort":
            await context.abort(grpc.StatusCode.ABORTED, "enough")
        if word == "set":
            context.set_code(grpc.StatusCode.DATA_LOSS)
        return pb.Animal(name=word)

    @handler
    async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
        return await self._do(request.name, context)

    @handler
    async def watch(self, request: pb.Query, context: CallContext) -> AsyncIterator[pb.Animal]:
        yield await self._do(request.name, context)

    @handler
    async def count(self, requests: AsyncIterator[pb.Animal], context: CallContext) -> pb.Tally:
        async for request in requests:
            await self._do(request.name, context)
        return pb.Tally(count=1)

    @handler
    async def talk(
        self, requests: AsyncIterator[pb.Animal], context: CallContext
    ) -> AsyncIterator[pb.Animal]:
        async for request in requests:
            yield await self._do(request.name, context)


def ended(record: ServerRecord, shape: str) -> dict[str, int]:
    """How many calls ended with which status."""
    names = {code.value[0]: code.name for code in grpc.StatusCode}
    ends = record.methods[f"{ZOO}/{shape}"].ended
    return {names[code]: one.count for code, one in ends.items() if one.count}


@AROUND
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("ant", "OK"),
        ("raise", "INTERNAL"),
        ("refuse", "NOT_FOUND"),
        ("abort", "ABORTED"),
        ("set", "DATA_LOSS"),
    ],
)
async def test_the_status_is_the_one_that_the_caller_got(
    around: list[Any], shape: str, word: str, status: str
) -> None:
    record = ServerRecord()
    async with serving(Moody(), source=KEEPER, interceptors=around, record=record) as ran:
        if status == "OK":
            await ran.ask(shape, word)
        else:
            assert (await ran.failure(shape, word, ends=word == "set")).code().name == status
        method = record.methods[f"{ZOO}/{shape}"]
        await eventually(lambda: method.in_flight == 0, "the handler has returned")
        assert ended(record, shape) == {status: 1}
        assert method.started == 1


@AROUND
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("how", ["CANCELLED", "DEADLINE_EXCEEDED"])
async def test_a_call_whose_caller_has_gone(around: list[Any], shape: str, how: str) -> None:
    record, waiting = ServerRecord(), Waiting()
    async with serving(waiting, source=KEEPER, interceptors=around, record=record) as ran:
        timeout = 0.2 if how == "DEADLINE_EXCEEDED" else 20
        asking = asyncio.ensure_future(ran.failure(shape, timeout=timeout))
        await eventually(lambda: waiting.ran == [shape], "the handler runs")
        method = record.methods[f"{ZOO}/{shape}"]
        assert method.in_flight == 1
        if how == "CANCELLED":
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        else:
            await asking
        await eventually(lambda: method.in_flight == 0, "the handler has ended")
        (status,) = ended(record, shape)
        # The caller's clock may be ahead: then its reset comes before our own deadline, as a cancellation.
        assert status == how or (status, how) == ("CANCELLED", "DEADLINE_EXCEEDED")
        assert ended(record, shape) == {status: 1}


async def test_calls_that_no_handler_sees_are_counted_by_reason() -> None:
    record, waiting = ServerRecord(), Waiting()
    async with serving(waiting, source=KEEPER, config=Config(max_concurrent_calls=1), record=record) as ran:
        first = asyncio.ensure_future(ran.ask("Import"))
        await eventually(lambda: waiting.ran == ["Import"], "the handler runs")
        assert (await ran.failure("Import")).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for number in range(20):
            unknown = ran.channel.unary_unary(f"/no.Such/Method{number}")
            with pytest.raises(grpc.aio.AioRpcError):
                await unknown(b"")
        waiting.go.set()
        await first
        assert record.refused == {"full": 1, "unknown": 20}
        assert ended(record, "Import") == {"OK": 1, "RESOURCE_EXHAUSTED": 1}
        assert len(record.methods) == 5
        assert record.methods[OTHER].started == 20


async def test_health_and_reflection_do_not_count() -> None:
    record = ServerRecord()
    async with serving(Moody(), source=KEEPER, record=record) as ran:
        await ran.channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
        assert not record.refused
        assert all(method.started == 0 for method in record.methods.values())
