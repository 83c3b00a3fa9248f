"""Interceptors of grpc.aio's classes, OpenTelemetry's, and those of our own form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.instrumentation.grpc import aio_client_interceptors
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import pymicro
from greeter.v1 import greeter_pb2 as pb
from pymicro import Client, ConfigError, MemoryRegistry
from pymicro.calling.call.outgoing import OutgoingCall

from .backends import count_down, greeter, hello, in_flight, make_server, stub

Proceed = Callable[[], Awaitable[Any]]


class Foreign(
    grpc.aio.UnaryUnaryClientInterceptor,
):
    """Counts, and adds metadata."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.log.append(self.name)
        metadata = grpc.aio.Metadata(*(details.metadata or ()), (f"by-{self.name}", "yes"))
        return await continuation(details._replace(metadata=metadata), request)


class ForeignStreams(grpc.aio.StreamStreamClientInterceptor):
    """Passes calls on."""

    async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return await continuation(details, requests)


async def _all_shapes(greet: Any) -> None:
    assert (await greet.SayHello(hello())).message == "Hello Ada"
    assert [reply.number async for reply in greet.CountDown(count_down(3))] == [3, 2, 1]
    assert (await greet.GreetAll(iter([hello("a"), hello("b")]))).message == "a, b"
    assert [line.text async for line in greet.Chat(iter([pb.ChatMessage(text="x")]))] == ["X"]


async def _one_by_one(greet: Any) -> None:
    chat = greet.Chat()
    for text in ("a", "b"):
        await chat.write(pb.ChatMessage(text=text))
        assert (await chat.read()).text == text.upper()
    await chat.done_writing()
    assert await chat.read() is grpc.aio.EOF
    assert await chat.code() is grpc.StatusCode.OK
    gather = greet.GreetAll()
    await gather.write(hello("x"))
    await gather.write(hello("y"))
    await gather.done_writing()
    assert (await gather).message == "x, y"


async def test_foreign_interceptors_run_in_order_once_for_each_call() -> None:
    log: list[str] = []
    async with greeter(interceptors=(Foreign("client", log),)) as (client, _, (server,)):
        greet = stub(client, interceptors=(Foreign("channel", log),))
        call = greet.SayHello(hello(), metadata=(("mine", "1"),))
        assert (await call).message == "Hello Ada"
        assert log == ["client", "channel"]
        assert {"mine", "by-client", "by-channel"} <= server.metadata[-1].keys()
        assert server.remaining[-1] is not None  # the default timeout came through
        assert await call.code() is grpc.StatusCode.OK
        await _all_shapes(greet)
        assert in_flight(client) == 0


async def test_a_foreign_interceptor_may_answer_itself_or_refuse() -> None:
    class Cached(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            if request.name == "refuse":
                raise pymicro.PermissionDenied("not you")
            return pb.HelloReply(message="cached")

    class Replaced(grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
            call = await continuation(details, request)

            async def doubled() -> Any:
                async for reply in call:
                    yield pb.CountDownReply(number=reply.number * 2)

            return doubled()

    async with greeter(interceptors=(Cached(), Replaced())) as (client, _, (server,)):
        greet = stub(client)
        call = greet.SayHello(hello())
        assert (await call).message == "cached"
        assert await call.code() is grpc.StatusCode.OK
        with pytest.raises(pymicro.PermissionDenied, match="not you"):
            await greet.SayHello(hello("refuse"))
        assert server.calls == 0
        assert [reply.number async for reply in greet.CountDown(count_down(2))] == [4, 2]
        reading = greet.CountDown(count_down(1))
        assert (await reading.read()).number == 2
        assert await reading.read() is grpc.aio.EOF


async def test_a_foreign_interceptor_may_call_another_method() -> None:
    class Renamed(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return await continuation(details._replace(method=b"/greeter.v1.Greeter/Absent"), request)

    async with greeter(interceptors=(Renamed(),)) as (client, _, _):
        with pytest.raises(pymicro.Unimplemented):
            await stub(client).SayHello(hello())


@pytest.fixture
def spans() -> Any:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


async def test_opentelemetrys_interceptors_over_all_four_shapes(spans: Any) -> None:
    provider, exporter = spans
    interceptors = aio_client_interceptors(tracer_provider=provider)
    async with greeter(interceptors=interceptors) as (client, _, (server,)):
        await _all_shapes(stub(client))
        assert all("traceparent" in metadata for metadata in server.metadata)
        names = {span.name for span in exporter.get_finished_spans()}
        assert names == {f"/greeter.v1.Greeter/{m}" for m in ("SayHello", "CountDown", "GreetAll", "Chat")}
        exporter.clear()
        with pytest.raises(pymicro.NotFound) as caught:
            await stub(client).SayHello(hello("fail"))
        assert caught.value.node == server.node
        (span,) = exporter.get_finished_spans()
        assert span.attributes["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
        await _one_by_one(stub(client))
        assert in_flight(client) == 0


async def test_our_own_form_sees_all_four_shapes_from_begin_to_end() -> None:
    log: list[Any] = []

    async def watch(call: OutgoingCall, proceed: Proceed) -> Any:
        shape = (call.shape.request_streaming, call.shape.response_streaming)
        call.metadata.add("seen", "yes")
        log.append(("begin", call.service, call.method, *shape))
        response = await proceed()
        log.append(("end", type(response).__name__))
        return response

    async with greeter(interceptors=(watch,)) as (client, _, (server,)):
        await _all_shapes(stub(client))
        assert all(metadata["seen"] == "yes" for metadata in server.metadata)
        begun = [entry[3:] for entry in log if entry[0] == "begin"]
        assert begun == [(False, False), (False, True), (True, False), (True, True)]
        ended = [entry[1] for entry in log if entry[0] == "end"]
        assert ended == ["HelloReply", "NoneType", "HelloReply", "NoneType"]
        await _one_by_one(stub(client))
        assert in_flight(client) == 0


async def test_our_own_form_sees_errors_and_may_replace_them() -> None:
    seen: list[Exception] = []

    async def translate(call: OutgoingCall, proceed: Proceed) -> Any:
        try:
            return await proceed()
        except pymicro.NotFound as exc:
            seen.append(exc)
            return pb.HelloReply(message="nobody")
        except pymicro.Unimplemented as exc:
            raise pymicro.FailedPrecondition("too old") from exc

    async with greeter(interceptors=(translate,)) as (client, _, (server,)):
        call = stub(client).SayHello(hello("fail"))
        assert (await call).message == "nobody"
        assert await call.code() is grpc.StatusCode.OK
        assert seen[0].node == server.node  # type: ignore[attr-defined]
        absent = client.channel("greeter").unary_stream("/greeter.v1.Greeter/Absent", bytes, bytes)
        stream = absent(b"")
        with pytest.raises(pymicro.FailedPrecondition, match="too old"):
            async for _ in stream:
                pytest.fail("nobody answers")
        assert await stream.code() is grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(pymicro.FailedPrecondition):
            await absent(b"").read()


async def test_each_interceptor_sees_what_the_one_inside_it_made_of_an_error() -> None:
    seen: list[pymicro.RpcError] = []

    async def outer(call: OutgoingCall, proceed: Proceed) -> Any:
        try:
            return await proceed()
        except pymicro.RpcError as exc:
            seen.append(exc)
            raise

    async def inner(call: OutgoingCall, proceed: Proceed) -> Any:
        try:
            return await proceed()
        except pymicro.Unavailable as exc:
            seen.append(exc)
            raise pymicro.NotFound("nobody there") from exc

    async with Client(registry=MemoryRegistry(), interceptors=(outer, inner)) as client:
        greet = stub(client)
        with pytest.raises(pymicro.NotFound, match="nobody there"):
            await greet.SayHello(hello())
        with pytest.raises(pymicro.NotFound, match="nobody there"):
            async for _ in greet.CountDown(count_down(1)):
                pytest.fail("nobody answers")
        with pytest.raises(pymicro.NotFound, match="nobody there"):
            await greet.Chat().read()
    assert [type(exc) for exc in seen] == [pymicro.Unavailable, pymicro.NotFound] * 3
    assert all(exc.from_peer is False for exc in seen[::2])  # ours, as they were raised


async def test_our_own_form_sees_and_replaces_messages() -> None:
    async def shout(call: OutgoingCall, proceed: Proceed) -> Any:
        def louder(message: Any) -> Any:
            if isinstance(message, pb.HelloRequest):
                message.name += "!"
            return message

        async def later(message: Any) -> Any:
            if isinstance(message, pb.CountDownReply):
                message.number += 100
            return message

        call.map_requests(louder)
        call.map_responses(later)
        return await proceed()

    async with greeter(interceptors=(shout,)) as (client, _, _):
        greet = stub(client)
        assert (await greet.SayHello(hello())).message == "Hello Ada!"
        assert (await greet.GreetAll(iter([hello("a")]))).message == "a!"
        assert [reply.number async for reply in greet.CountDown(count_down(2))] == [102, 101]
        gather = greet.GreetAll()
        await gather.write(hello("w"))
        await gather.done_writing()
        assert (await gather).message == "w!"


async def test_our_own_form_may_try_again_and_may_answer_without_calling() -> None:
    async def twice(call: OutgoingCall, proceed: Proceed) -> Any:
        if call.timeout == 0.5:
            return pb.HelloReply(message="no call")
        try:
            return await proceed()
        except pymicro.NotFound:
            call.map_requests(lambda request: pb.HelloRequest(name="again"))
            return await proceed()

    async with greeter(interceptors=(twice,)) as (client, _, (server,)):
        assert (await stub(client).SayHello(hello("fail"))).message == "Hello again"
        assert server.calls == 2
        assert (await stub(client).SayHello(hello(), timeout=0.5)).message == "no call"
        assert server.calls == 2


async def test_an_interceptors_own_exception_reaches_the_caller_as_it_is() -> None:
    async def broken(call: OutgoingCall, proceed: Proceed) -> Any:
        raise KeyError("mine")

    async with greeter(interceptors=(broken,)) as (client, _, _):
        with pytest.raises(KeyError, match="mine"):
            await stub(client).SayHello(hello())
        with pytest.raises(KeyError, match="mine"):
            async for _ in stub(client).CountDown(count_down(1)):
                pytest.fail("nobody answers")
        await client.nodes("greeter")  # and the client is whole


@pytest.mark.parametrize("own", [True, False])
async def test_cancelling_an_intercepted_call_reaches_the_server(own: bool) -> None:
    async def ours(call: OutgoingCall, proceed: Proceed) -> Any:
        return await proceed()

    interceptor: Any = ours if own else Foreign("f", [])
    async with greeter(interceptors=(interceptor,)) as (client, _, (server,)):
        task = asyncio.ensure_future(stub(client).SayHello(hello("wait")))
        await server.until(lambda: server.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda: server.running == 0)
        stream = stub(client).CountDown(count_down(9999))
        await stream.read()
        stream.cancel()
        await server.until(lambda: server.running == 0 and server.calls == 2)
        assert in_flight(client) == 0


@pytest.mark.parametrize("kind", ["none", "ours", "grpc.aio's"])
async def test_a_cancelled_call_keeps_the_initial_metadata_that_had_come(kind: str) -> None:
    async def ours(call: OutgoingCall, proceed: Proceed) -> Any:
        return await proceed()

    async def announces(requests: Any, context: Any) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("k", "v"),))
        await asyncio.Event().wait()
        yield b""

    kinds: dict[str, Any] = {"none": (), "ours": (ours, ours), "grpc.aio's": (ForeignStreams(),)}
    server, registry = make_server(), MemoryRegistry()
    port = server.add_insecure_port("127.0.0.1:0")
    handlers = {"Chat": grpc.stream_stream_rpc_method_handler(announces)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
    await server.start()
    try:
        async with registry, Client(registry=registry, interceptors=kinds[kind]) as client:
            await registry.register(pymicro.Node("n", f"127.0.0.1:{port}", "t"))
            call = client.channel("t").stream_stream("/t.T/Chat")()
            assert tuple(await call.initial_metadata()) == (("k", "v"),)
            assert call.cancel()
            assert tuple(await call.initial_metadata()) == (("k", "v"),)
            assert tuple(await call.trailing_metadata()) == ()
            assert await call.code() is grpc.StatusCode.CANCELLED
    finally:
        await server.stop(None)


async def test_an_intercepted_stream_nobody_holds_any_more_is_cancelled() -> None:
    async def ours(call: OutgoingCall, proceed: Proceed) -> Any:
        return await proceed()

    async with greeter(interceptors=(ours,)) as (client, _, (server,)):
        async for _ in stub(client).CountDown(count_down(9999)):
            break
        await server.until(lambda: server.calls == 1 and server.running == 0)
        chat = stub(client).Chat()
        await chat.write(pb.ChatMessage(text="x"))
        await chat.read()
        del chat
        await server.until(lambda: server.calls == 2 and server.running == 0)


def test_what_is_no_interceptor_is_refused_when_it_is_given() -> None:
    client = Client(registry=MemoryRegistry(), interceptors=(lambda call, proceed: None,))
    with pytest.raises(ConfigError, match="no client interceptor"):
        client.channel("greeter")
    with pytest.raises(ConfigError, match="no client interceptor"):
        Client(registry=MemoryRegistry()).channel("greeter", interceptors=(Foreign,))
