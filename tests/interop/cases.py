"""The cases of gRPC's interop test descriptions that need neither TLS nor a cloud's credentials.

Each is a coroutine that takes a channel, and fails unless everything is as the description has it
(github.com/grpc/grpc, doc/interop-test-descriptions.md). `CASES` lists them by the names that all
languages use.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.interop.generated import pb, rpc
from tests.interop.service import INITIAL, TRAILING, payload

REQUEST_SIZES = (27182, 8, 1828, 45904)
RESPONSE_SIZES = (31415, 9, 2653, 58979)

CASES: dict[str, Callable[[grpc.aio.Channel], Awaitable[None]]] = {}


def case(run: Callable[[grpc.aio.Channel], Awaitable[None]]) -> Callable[[grpc.aio.Channel], Awaitable[None]]:
    CASES[run.__name__] = run
    return run


def output(*sizes: int, body: int = 0) -> Any:
    """A request for responses of these sizes."""
    wanted = [pb.ResponseParameters(size=size) for size in sizes]
    return pb.StreamingOutputCallRequest(response_parameters=wanted, payload=payload(body))


@case
async def empty_unary(channel: grpc.aio.Channel) -> None:
    assert await rpc.TestServiceStub(channel).EmptyCall(pb.Empty()) == pb.Empty()


@case
async def large_unary(channel: grpc.aio.Channel) -> None:
    request = pb.SimpleRequest(response_size=314159, payload=payload(271828))
    reply = await rpc.TestServiceStub(channel).UnaryCall(request)
    assert reply.payload.body == bytes(314159)


@case
async def client_streaming(channel: grpc.aio.Channel) -> None:
    async def requests() -> AsyncIterator[Any]:
        for size in REQUEST_SIZES:
            yield pb.StreamingInputCallRequest(payload=payload(size))

    reply = await rpc.TestServiceStub(channel).StreamingInputCall(requests())
    assert reply.aggregated_payload_size == 74922


@case
async def server_streaming(channel: grpc.aio.Channel) -> None:
    call = rpc.TestServiceStub(channel).StreamingOutputCall(output(*RESPONSE_SIZES))
    assert [len(response.payload.body) async for response in call] == list(RESPONSE_SIZES)


@case
async def ping_pong(channel: grpc.aio.Channel) -> None:
    call = rpc.TestServiceStub(channel).FullDuplexCall()
    for request, response in zip(REQUEST_SIZES, RESPONSE_SIZES, strict=True):
        await call.write(output(response, body=request))
        assert len((await call.read()).payload.body) == response
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


@case
async def empty_stream(channel: grpc.aio.Channel) -> None:
    call = rpc.TestServiceStub(channel).FullDuplexCall()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


@case
async def timeout_on_sleeping_server(channel: grpc.aio.Channel) -> None:
    call = rpc.TestServiceStub(channel).FullDuplexCall(timeout=0.001)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        # The deadline may end the write, or the read that waits for an answer which never comes.
        await call.write(pb.StreamingOutputCallRequest(payload=payload(27182)))
        await call.read()
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED, failed.value
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@case
async def cancel_after_begin(channel: grpc.aio.Channel) -> None:
    call = rpc.TestServiceStub(channel).StreamingInputCall(metadata=(("key1", "value1"), ("key2", "value2")))
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await call.code() is grpc.StatusCode.CANCELLED


@case
async def cancel_after_first_response(channel: grpc.aio.Channel) -> None:
    call = rpc.TestServiceStub(channel).FullDuplexCall()
    await call.write(output(31415, body=27182))
    assert len((await call.read()).payload.body) == 31415
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    assert await call.code() is grpc.StatusCode.CANCELLED


@case
async def status_code_and_message(channel: grpc.aio.Channel) -> None:
    stub, text = rpc.TestServiceStub(channel), "test status message"
    status = pb.EchoStatus(code=2, message=text)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.UnaryCall(pb.SimpleRequest(response_status=status))
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.UNKNOWN, text)

    call = stub.FullDuplexCall()
    await call.write(pb.StreamingOutputCallRequest(response_status=status))
    await call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call.read()
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.UNKNOWN, text)
    assert (await call.code(), await call.details()) == (grpc.StatusCode.UNKNOWN, text)


@case
async def special_status_message(channel: grpc.aio.Channel) -> None:
    text = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
    request = pb.SimpleRequest(response_status=pb.EchoStatus(code=2, message=text))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await rpc.TestServiceStub(channel).UnaryCall(request)
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.UNKNOWN, text)


@case
async def custom_metadata(channel: grpc.aio.Channel) -> None:
    stub = rpc.TestServiceStub(channel)
    metadata = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\x0a\x0b\x0a\x0b\x0a\x0b"))

    async def echoed(call: Any) -> None:
        assert (await call.initial_metadata()).get_all(INITIAL) == [metadata[0][1]]
        assert (await call.trailing_metadata()).get_all(TRAILING) == [metadata[1][1]]

    unary = stub.UnaryCall(pb.SimpleRequest(response_size=1, payload=payload(1)), metadata=metadata)
    assert len((await unary).payload.body) == 1
    await echoed(unary)

    stream = stub.FullDuplexCall(metadata=metadata)
    await stream.write(output(1, body=1))
    assert len((await stream.read()).payload.body) == 1
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    await echoed(stream)


@case
async def unimplemented_method(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await rpc.TestServiceStub(channel).UnimplementedCall(pb.Empty())
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


@case
async def unimplemented_service(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await rpc.UnimplementedServiceStub(channel).UnimplementedCall(pb.Empty())
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
