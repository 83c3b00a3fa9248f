"""Interceptors of grpc.aio's classes and of our own form, in any order, over all four shapes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

import pymicro
from greeter.v1 import greeter_pb2 as pb

from .backends import count_down, greeter, hello, in_flight, stub
from .flaky import EXHAUSTED, NOT_STARTED, Refusal, flaky

SHAPES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
OK, NOT_FOUND = grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND


class _Each(
    grpc.aio.UnaryUnaryClientInterceptor,
    grpc.aio.UnaryStreamClientInterceptor,
    grpc.aio.StreamUnaryClientInterceptor,
    grpc.aio.StreamStreamClientInterceptor,
):
    """One class for all shapes; checks that it is handed a call of grpc.aio's."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def _do(self, continuation: Any, details: Any, request: Any) -> Any:
        raise NotImplementedError

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await self._do(continuation, details, request)

    intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = intercept_unary_unary  # type: ignore[assignment]


class Passes(_Each):
    async def _do(self, continuation: Any, details: Any, request: Any) -> Any:
        self.log.append("passes")
        call = await continuation(details, request)
        assert isinstance(call, grpc.aio.Call), call
        return call


class Asks(_Each):
    """As OpenTelemetry's: it asks for the outcome of one response before it hands the call on."""

    async def _do(self, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, request)
        assert isinstance(call, grpc.aio.Call), call
        if isinstance(call, grpc.aio.UnaryUnaryCall | grpc.aio.StreamUnaryCall):
            self.log.append(f"asks {(await call.code()).name}")
        else:
            call.add_done_callback(lambda call: self.log.append("asks at the end"))
        return call


class Answers(_Each):
    """Hands a plain response on, or a plain iterator."""

    async def _do(self, continuation: Any, details: Any, request: Any) -> Any:
        self.log.append("answers")
        call = await continuation(details, request)
        assert isinstance(call, grpc.aio.Call), call
        if isinstance(call, grpc.aio.UnaryUnaryCall | grpc.aio.StreamUnaryCall):
            return await call

        async def each() -> AsyncIterator[Any]:
            async for message in call:
                yield message

        return each()


def _ours(log: list[str]) -> Any:
    async def ours(call: Any, proceed: Any) -> Any:
        try:
            response = await proceed()
        except pymicro.RpcError as exc:
            log.append(f"ours {exc.code().name}")
            raise
        log.append("ours OK")
        return response

    return ours


KINDS = {"passes": Passes, "asks": Asks, "answers": Answers, "ours": _ours}
ORDERS = [
    *itertools.product(KINDS),
    *itertools.product(KINDS, repeat=2),
    ("passes", "ours", "answers"),
    ("answers", "ours", "passes"),
    ("ours", "asks", "ours"),
    ("ours", "ours", "ours"),
]


def begun(client: Any, shape: str, method: str, written: bool) -> Any:
    """A call of a method that there is, or of one that there is not."""
    channel = client.channel("greeter")
    make = getattr(channel, shape)
    if method == "absent":
        call = make("/greeter.v1.Greeter/Absent", pb.HelloRequest.SerializeToString, pb.HelloReply.FromString)
        return (
            call(iter([hello()]))
            if shape.startswith("stream") and not written
            else call(*([] if shape.startswith("stream") else [hello()]))
        )
    greet = stub(client)
    if shape == "unary_unary":
        return greet.SayHello(hello())
    if shape == "unary_stream":
        return greet.CountDown(count_down(3))
    if shape == "stream_unary":
        return greet.GreetAll() if written else greet.GreetAll(iter([hello("a"), hello("b")]))
    return greet.Chat() if written else greet.Chat(iter([pb.ChatMessage(text="x"), pb.ChatMessage(text="y")]))


async def outcome(call: Any, shape: str, written: bool) -> Any:
    if written:
        lines = [pb.ChatMessage(text="x"), pb.ChatMessage(text="y")]
        for message in [hello("a"), hello("b")] if shape == "stream_unary" else lines:
            await call.write(message)
        await call.done_writing()
    if shape.endswith("unary"):
        return (await call).message
    if written:
        found = []
        while (message := await call.read()) is not grpc.aio.EOF:
            found.append(message)
    else:
        found = [message async for message in call]
    return [getattr(message, "number", None) or message.text for message in found]


EXPECTED = {
    "unary_unary": "Hello Ada",
    "unary_stream": [3, 2, 1],
    "stream_unary": "a, b",
    "stream_stream": ["X", "Y"],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
async def test_any_order_gives_the_response_and_the_status(order: tuple[str, ...], shape: str) -> None:
    log: list[str] = []
    chain = [KINDS[kind](log) for kind in order]
    async with greeter(interceptors=chain) as (client, _, (server,)):
        for written in (False, True) if shape.startswith("stream") else (False,):
            log.clear()
            call = begun(client, shape, "present", written)
            assert isinstance(call, grpc.aio.Call)
            told: list[Any] = []
            call.add_done_callback(told.append)
            assert await outcome(call, shape, written) == EXPECTED[shape]
            assert await call.code() is OK
            assert await call.details() == ""
            assert call.done()
            assert not call.cancelled()
            assert told == [call]
            if shape == "unary_unary":
                assert dict(tuple(await call.initial_metadata()))["served-by"] == server.node.id
                assert dict(tuple(await call.trailing_metadata()))["trailer"] == "yes"
            assert [line for line in log if line.startswith("ours")] == ["ours OK"] * order.count("ours")
        assert server.calls == (2 if shape.startswith("stream") else 1)
        assert in_flight(client) == 0
        assert not client.channel("greeter").live


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
async def test_any_order_gives_the_error(order: tuple[str, ...], shape: str) -> None:
    log: list[str] = []
    chain = [KINDS[kind](log) for kind in order]
    async with greeter(interceptors=chain) as (client, _, (server,)):
        call = begun(client, shape, "absent", False)
        told: list[Any] = []
        call.add_done_callback(lambda call: told.append(call.done()))
        with pytest.raises(pymicro.Unimplemented) as caught:
            await outcome(call, shape, False)
        assert caught.value.node == server.node
        assert caught.value.callee == "greeter/greeter.v1.Greeter/Absent"
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await call.details() == caught.value.details()
        assert told == [True]
        ours = [line for line in log if line.startswith("ours")]
        assert ours == ["ours UNIMPLEMENTED"] * order.count("ours")
        assert in_flight(client) == 0
        assert not client.channel("greeter").live


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", [order for order in ORDERS if len(order) == 2], ids="-".join)
async def test_any_order_can_be_cancelled(order: tuple[str, ...], shape: str) -> None:
    chain = [KINDS[kind]([]) for kind in order]
    async with greeter(interceptors=chain) as (client, _, (server,)):
        greet = stub(client)
        call: Any
        if shape == "unary_unary":
            call = greet.SayHello(hello("wait"))
        elif shape == "unary_stream":
            call = greet.CountDown(count_down(9999))
            await call.read()
        else:
            call = greet.GreetAll() if shape == "stream_unary" else greet.Chat()
            await call.write(hello("x") if shape == "stream_unary" else pb.ChatMessage(text="x"))
        await server.until(lambda: server.running == 1)
        told: list[bool] = []
        call.add_done_callback(lambda call: told.append(call.cancelled()))
        assert call.cancel()
        assert not call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await (call if shape.endswith("unary") else call.read())
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert told == [True]
        async with asyncio.timeout(4):  # and not at the deadline
            await server.until(lambda: server.running == 0)
        assert in_flight(client) == 0


class Forgives(_Each):
    """Makes a success of an error, with a plain response or a plain iterator."""

    async def _do(self, continuation: Any, details: Any, request: Any) -> Any:
        try:
            # As in grpc.aio: what an interceptor inside awaited and did not catch is raised here.
            call = await continuation(details, request)
            if isinstance(call, grpc.aio.UnaryUnaryCall | grpc.aio.StreamUnaryCall):
                return await call
        except grpc.aio.AioRpcError:
            return pb.HelloReply(message="forgiven")

        async def each() -> AsyncIterator[Any]:
            try:
                async for message in call:
                    yield message
            except grpc.aio.AioRpcError:
                yield pb.HelloReply(message="forgiven")

        return each()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("inside", [(), ("ours",), ("passes",), ("answers",)], ids=str)
async def test_an_interceptor_of_grpc_aios_may_make_a_success_of_an_error(
    inside: tuple[str, ...], shape: str
) -> None:
    chain = [Forgives([]), *(KINDS[kind]([]) for kind in inside)]
    async with greeter(interceptors=chain) as (client, _, _):
        call = begun(client, shape, "absent", False)
        if shape.endswith("unary"):
            assert (await call).message == "forgiven"
        else:
            assert [reply.message async for reply in call] == ["forgiven"]
        assert await call.code() is OK
        assert in_flight(client) == 0


async def test_the_code_of_responses_that_nobody_reads_is_that_of_the_call_inside() -> None:
    async with greeter(interceptors=(Answers([]),)) as (client, _, _):
        call = begun(client, "unary_stream", "absent", False)
        assert await asyncio.wait_for(call.code(), 5) is grpc.StatusCode.UNIMPLEMENTED


# C8: proceeding again


async def _twice(call: Any, proceed: Any) -> Any:
    try:
        return await proceed()
    except pymicro.RpcError:
        return await proceed()


@pytest.mark.parametrize("shape", ["unary_stream", "stream_unary", "stream_stream"])
async def test_a_stream_cannot_be_proceeded_with_twice(shape: str) -> None:
    async with greeter(interceptors=(_twice,)) as (client, _, (server,)):
        with pytest.raises(pymicro.PymicroError, match=r"proceed\(\) can be called once only where re"):
            await outcome(begun(client, shape, "absent", False), shape, False)
        assert server.calls == 0
        assert in_flight(client) == 0


@pytest.mark.parametrize("others", [(), ("passes",), ("ours",), ("answers",)], ids=str)
async def test_metadata_are_those_of_the_last_time_an_interceptor_proceeded(others: tuple[str, ...]) -> None:
    async with flaky() as nodes:
        nodes.refuse = lambda number: Refusal(NOT_FOUND, (("why", "first"),)) if number == 0 else None
        chain = [_twice, *(KINDS[kind]([]) for kind in others)]
        call = nodes.method(interceptors=chain)(b"x", timeout=5)
        assert (await call).decode() == nodes.ran[1]
        assert dict(tuple(await call.trailing_metadata())) == {"served-by": nodes.ran[1]}
        assert call.node.id == nodes.ran[1]


async def test_an_unmarked_method_runs_once_whatever_the_interceptors() -> None:
    for order in ORDERS:
        async with flaky(2) as nodes:
            nodes.refuse = lambda number: Refusal() if number == 0 else None
            chain = [KINDS[kind]([]) for kind in order]
            with pytest.raises(pymicro.Unavailable):
                await nodes.method(interceptors=chain)(b"x", timeout=5)
            assert len(nodes.ran) == 1
            nodes.refuse = lambda number: Refusal(EXHAUSTED, NOT_STARTED) if number == 1 else None
            await nodes.method(interceptors=chain)(b"x", timeout=5)
            assert len(nodes.ran) == 3


# C9: what happens to messages of a stream


@pytest.mark.parametrize("error", [pymicro.DataLoss("line 2"), KeyError("line 2")], ids=repr)
@pytest.mark.parametrize("outer", [(), (Passes([]),)], ids=["alone", "inside grpc.aio's"])
async def test_a_mapper_of_responses_that_raises_ends_the_stream_with_its_error(
    error: Exception, outer: tuple[Any, ...]
) -> None:
    seen: list[BaseException] = []

    def broken(message: Any) -> Any:
        if message.number == 2:
            raise error
        return message

    async def maps(call: Any, proceed: Any) -> Any:
        call.map_responses(broken)
        try:
            return await proceed()
        except Exception as exc:
            seen.append(exc)
            raise

    async with greeter(interceptors=(*outer, maps)) as (client, _, (server,)):
        got, call = [], stub(client).CountDown(count_down(3))
        with pytest.raises(type(error), match="line 2"):
            async for reply in call:
                got.append(reply.number)  # noqa: PERF401 # what came before the error
        assert got == [3]
        assert seen == [error]
        expected = error.code() if isinstance(error, pymicro.RpcError) else grpc.StatusCode.UNKNOWN
        assert await call.code() is expected
        await server.until(lambda: server.running == 0)
        assert in_flight(client) == 0


async def test_an_interceptor_that_raises_while_a_stream_runs_ends_it() -> None:
    async def impatient(call: Any, proceed: Any) -> Any:
        try:
            async with asyncio.timeout(0.2):
                return await proceed()
        except TimeoutError:
            raise pymicro.DeadlineExceeded("too long for me") from None

    async with greeter(interceptors=(impatient,)) as (client, _, (server,)):
        call = stub(client).CountDown(count_down(9999))
        with pytest.raises(pymicro.DeadlineExceeded, match="too long for me"):
            async for _ in call:
                pass
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(pymicro.DeadlineExceeded, match="too long for me"):
            await stub(client).SayHello(hello("wait"))
        await server.until(lambda: server.running == 0)
        assert in_flight(client) == 0


async def test_a_mappers_error_may_become_a_success() -> None:
    def broken(message: Any) -> Any:
        raise pymicro.DataLoss("line 1")

    async def forgives(call: Any, proceed: Any) -> Any:
        call.map_responses(broken)
        try:
            return await proceed()
        except pymicro.DataLoss:
            return None

    async with greeter(interceptors=(forgives,)) as (client, _, _):
        call = stub(client).CountDown(count_down(3))
        assert [reply async for reply in call] == []
        assert await call.code() is OK
