"""Spans of calls, with the real SDK: one for each call on each end, and one for each of several attempts."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcAioInstrumentorServer
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import pymicro
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro.runtime.logs import set_up
from pymicro.settings.config import Config
from pymicro.telemetry import tracing
from pymicro.testing import running
from tests.calling.flaky import NOT_STARTED, Refusal, flaky

HELLO = "greeter.v1.Greeter/SayHello"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What was exported, of a provider that a program has set up for itself."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # A process can set its provider once, and other tests have another one.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


class Greeter(rpc.GreeterServicer):
    def __init__(self) -> None:
        self.metadata: list[dict[str, Any]] = []
        self.onward: Any = None
        self.log = logging.getLogger("shop")

    async def SayHello(self, request: Any, context: Any) -> Any:
        self.metadata.append(dict(context.invocation_metadata()))
        self.log.warning("says hello")
        if request.name == "fail":
            raise pymicro.NotFound("nobody")
        if request.name == "crash":
            raise KeyError("the password is 1234")
        if request.name == "onward":
            return await self.onward.SayHello(pb.HelloRequest(name="Ada"))
        return pb.HelloReply(message="Hello")

    async def CountDown(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for number in range(getattr(request, "from"), 0, -1):
            yield pb.CountDownReply(number=number)

    async def GreetAll(self, requests: Any, context: Any) -> Any:
        return pb.HelloReply(message=",".join([request.name async for request in requests]))

    async def Chat(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield request


def service(greeter: Any) -> pymicro.Service:
    made = pymicro.Service("greeter")
    rpc.add_GreeterServicer_to_server(greeter, made)
    return made


async def until(exporter: InMemorySpanExporter, count: int) -> list[ReadableSpan]:
    """So many spans, once they have ended; the server's end a moment after its client's."""
    async with asyncio.timeout(10):
        while len(exporter.get_finished_spans()) < count:  # noqa: ASYNC110  # exporters tell nobody
            await asyncio.sleep(0.005)
    return sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)


async def calls(greet: Any, shape: str) -> None:
    if shape == "SayHello":
        await greet.SayHello(pb.HelloRequest(name="Ada"))
    elif shape == "CountDown":
        assert len([one async for one in greet.CountDown(pb.CountDownRequest(**{"from": 2}))]) == 2
    elif shape == "GreetAll":
        await greet.GreetAll(iter([pb.HelloRequest(name="a")]))
    else:
        assert len([one async for one in greet.Chat(iter([pb.ChatMessage(text="a")]))]) == 1


@pytest.mark.parametrize("shape", ["SayHello", "CountDown", "GreetAll", "Chat"])
async def test_a_call_is_one_span_on_each_end_and_the_servers_is_within_the_clients(
    spans: InMemorySpanExporter, shape: str
) -> None:
    async with running(service(Greeter())) as ran:
        await calls(rpc.GreeterStub(ran.channel("greeter")), shape)
        client, server = await until(spans, 2)
        address = ran.node.address
    assert client.kind is trace.SpanKind.CLIENT
    assert server.kind is trace.SpanKind.SERVER
    assert server.parent is not None
    assert server.parent.span_id == client.context.span_id
    assert server.context.trace_id == client.context.trace_id
    common = {
        "rpc.system.name": "grpc",
        "rpc.method": f"greeter.v1.Greeter/{shape}",
        "rpc.response.status_code": "OK",
    }
    assert client.name == server.name == common["rpc.method"]
    assert client.attributes == {**common, "server.address": "greeter", "network.peer.address": address}
    assert server.attributes == common
    assert client.status.status_code is trace.StatusCode.UNSET


async def test_what_failed_for_the_caller_is_no_fault_of_the_server(spans: InMemorySpanExporter) -> None:
    async with running(service(Greeter())) as ran:
        with pytest.raises(pymicro.NotFound):
            await rpc.GreeterStub(ran.channel("greeter")).SayHello(pb.HelloRequest(name="fail"))
        client, server = await until(spans, 2)
    assert client.attributes is not None
    assert client.attributes["error.type"] == client.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert client.status.status_code is trace.StatusCode.ERROR
    assert server.attributes is not None
    assert server.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert server.status.status_code is trace.StatusCode.UNSET


async def test_the_id_of_an_internal_error_is_in_the_span(spans: InMemorySpanExporter) -> None:
    async with running(service(Greeter())) as ran:
        with pytest.raises(pymicro.Internal) as caught:
            await rpc.GreeterStub(ran.channel("greeter")).SayHello(pb.HelloRequest(name="crash"))
        _, server = await until(spans, 2)
    (event,) = server.events
    assert event.attributes is not None
    assert event.attributes["exception.type"] == "KeyError"
    assert str(event.attributes["pymicro.error_id"]) in (caught.value.details() or "")
    assert server.status.status_code is trace.StatusCode.ERROR


async def test_an_onward_call_is_within_the_call_being_served(spans: InMemorySpanExporter) -> None:
    greeter = Greeter()
    async with running(service(greeter)) as ran:
        greeter.onward = rpc.GreeterStub(ran.channel("greeter"))
        mine = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        await greeter.onward.SayHello(pb.HelloRequest(name="onward"), metadata=(mine, ("x-request-id", "7")))
        outer, served, onward, inner = await until(spans, 4)
    for above, below in ((outer, served), (served, onward), (onward, inner)):
        assert below.parent is not None
        assert below.parent.span_id == above.context.span_id
    assert greeter.metadata[1]["x-request-id"] == "7"
    _, trace_id, span_id, _ = greeter.metadata[1]["traceparent"].split("-")
    assert (int(trace_id, 16), int(span_id, 16)) == (onward.context.trace_id, onward.context.span_id)
    # Nothing else was active when the outermost call began, so what its metadata named is above it.
    assert outer.parent is not None
    assert outer.parent.span_id == 0xB7AD6B7169203331


async def test_attempts_have_spans_only_where_there_are_several(spans: InMemorySpanExporter) -> None:
    async with flaky(2) as nodes:
        await nodes.method()(b"")
        assert len(spans.get_finished_spans()) == 1
        spans.clear()
        nodes.refuse = lambda number: Refusal(trailers=NOT_STARTED) if number == 1 else None
        await nodes.method()(b"")
        found = spans.get_finished_spans()
        first, second, call = sorted(found, key=lambda span: span.end_time or 0)
    assert call.kind is trace.SpanKind.CLIENT
    for number, attempt in enumerate((first, second), start=1):
        assert attempt.parent is not None
        assert attempt.parent.span_id == call.context.span_id
        assert attempt.attributes is not None
        assert attempt.attributes["pymicro.attempt"] == number
    codes = [span.attributes["rpc.response.status_code"] for span in (first, second, call) if span.attributes]
    assert codes == ["UNAVAILABLE", "OK", "OK"]
    peers = {span.attributes["network.peer.address"] for span in (first, second) if span.attributes}
    assert peers == {node.address for node in nodes.nodes}


@pytest.mark.parametrize("form", ["json", "human"])
async def test_lines_of_the_log_say_which_call_they_belong_to(spans: InMemorySpanExporter, form: str) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    level = root.level
    try:
        set_up(Config(log_format=form, log_level="warning"), stream)
        async with running(service(Greeter())) as ran:
            await rpc.GreeterStub(ran.channel("greeter")).SayHello(pb.HelloRequest(name="Ada"))
            _, server = await until(spans, 2)
        logging.getLogger("shop").warning("nothing to do")
    finally:
        root.handlers = handlers
        root.setLevel(level)
    ids = f"{server.context.trace_id:032x}", f"{server.context.span_id:016x}"
    says, idle = [line for line in stream.getvalue().splitlines() if "hello" in line or "nothing" in line]
    if form == "json":
        assert (json.loads(says)["trace_id"], json.loads(says)["span_id"]) == ids
        assert "trace_id" not in json.loads(idle)
    else:
        assert says.endswith(f"says hello (trace {ids[0]}, span {ids[1]})")
        assert idle.endswith("nothing to do")


async def test_other_instrumentation_is_left_alone_and_that_is_said_once(
    spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_told", set())
    GrpcAioInstrumentorClient().instrument()
    GrpcAioInstrumentorServer().instrument()
    try:
        for _ in range(2):
            async with running(service(Greeter())) as ran:
                await rpc.GreeterStub(ran.channel("greeter")).SayHello(pb.HelloRequest(name="Ada"))
    finally:
        GrpcAioInstrumentorClient().uninstrument()
        GrpcAioInstrumentorServer().uninstrument()
    ours = [span for span in spans.get_finished_spans() if "rpc.system.name" in (span.attributes or {})]
    assert not ours
    lines = [one for one in caplog.records if "opentelemetry-instrumentation-grpc" in one.getMessage()]
    assert len(lines) == 2  # one for each end


async def test_nothing_is_traced_where_that_is_off_or_no_sdk_is_set_up(spans: InMemorySpanExporter) -> None:
    async with running(service(Greeter()), tracing="off") as ran:
        await rpc.GreeterStub(ran.channel("greeter")).SayHello(pb.HelloRequest(name="Ada"))
    assert not spans.get_finished_spans()


def test_without_the_api_pymicro_imports_none_of_it() -> None:
    code = """
import sys, pymicro, pymicro.runtime.life
from pymicro.telemetry.tracing import current_ids, find_tracing
assert find_tracing("auto", "client") is None and current_ids() is None
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_api_without_an_sdk_makes_no_spans() -> None:
    code = """
import opentelemetry.trace
from pymicro.telemetry.tracing import find_tracing
assert find_tracing("auto", "client") is None
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert grpc.StatusCode.OK.value[0] == 0
