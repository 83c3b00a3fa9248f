"""Spans of calls, with the real SDK: one for each call on each end, and one for each of several attempts."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import io
import json
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcAioInstrumentorServer
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import pymicro
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro.runtime.logs import set_up
from pymicro.settings.config import Config
from pymicro.telemetry import tracing
from pymicro.testing import running
from tests.bare_logging import bare_logging
from tests.calling.flaky import NOT_STARTED, Refusal, flaky
from tests.certificates import Folder
from tests.serving.test_admission import Blocking

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


async def test_an_attempt_has_no_span_of_its_own_if_the_second_never_begins(
    spans: InMemorySpanExporter,
) -> None:
    """There is time and budget for another one, and no other node."""
    async with flaky(1) as nodes:
        nodes.refuse = lambda number: Refusal()
        with pytest.raises(pymicro.Unavailable):
            await nodes.method(idempotent=["Get"])(b"")
    (call,) = spans.get_finished_spans()
    assert call.kind is trace.SpanKind.CLIENT
    assert call.attributes is not None
    assert call.attributes["rpc.response.status_code"] == "UNAVAILABLE"


# Calls that no handler sees


@pytest.mark.parametrize(
    ("why", "status", "fault"),
    [
        ("full", "RESOURCE_EXHAUSTED", False),
        ("expired", "DEADLINE_EXCEEDED", True),
        ("unknown", "UNIMPLEMENTED", True),
    ],
)
async def test_a_refused_call_is_a_span_in_its_callers_trace(
    spans: InMemorySpanExporter, why: str, status: str, fault: bool
) -> None:
    made = pymicro.Service(
        "greeter", max_concurrent_calls=1, interceptors=[Blocking()] if why == "expired" else []
    )
    waiting = Waiting()
    rpc.add_GreeterServicer_to_server(waiting, made)
    path = "/no.such.Service/" + "M" * 500 if why == "unknown" else f"/{HELLO}"
    metadata = [("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-block", "1" if why == "expired" else "")]
    # A channel that makes no spans of its own.
    async with running(made) as ran, grpc.aio.insecure_channel(ran.node.address) as bare:
        first: Any = None
        if why == "full":
            first = asyncio.ensure_future(rpc.GreeterStub(bare).SayHello(pb.HelloRequest(name="a")))
            await waiting.begun.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bare.unary_unary(path)(b"", metadata=metadata, timeout=0.05 if why == "expired" else 20)
        assert caught.value.code().name == status
        refused = (await until(spans, 1))[0]
        waiting.go.set()
        if first is not None:
            await first
    assert refused.kind is trace.SpanKind.SERVER
    assert f"{refused.context.trace_id:032x}" == TRACE
    assert refused.parent is not None
    assert f"{refused.parent.span_id:016x}" == PARENT
    attributes = dict(refused.attributes or {})
    assert attributes["rpc.response.status_code"] == status
    assert attributes.get("error.type") == (status if fault else None)
    if why == "unknown":
        assert (refused.name, attributes["rpc.method"]) == ("grpc", "_OTHER")
        assert len(str(attributes["rpc.method_original"])) == 200
    else:
        assert refused.name == attributes["rpc.method"] == HELLO


TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Waiting(Greeter):
    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.go = asyncio.Event()

    async def SayHello(self, request: Any, context: Any) -> Any:
        self.begun.set()
        await self.go.wait()
        return pb.HelloReply(message="Hello")


# Spans that nobody keeps


def kept(monkeypatch: pytest.MonkeyPatch, sampler: Any) -> tuple[InMemorySpanExporter, list[str]]:
    """What is exported with this sampler, and the names of spans that it was asked about."""
    asked: list[str] = []

    class Asked(type(sampler)):  # type: ignore[misc]
        def should_sample(self, context: Any, trace_id: int, name: str, *more: Any, **others: Any) -> Any:
            asked.append(name)
            return super().should_sample(context, trace_id, name, *more, **others)

    sampler.__class__ = Asked
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter, asked


async def test_a_call_in_a_trace_that_is_not_sampled_has_no_spans_and_passes_its_ids_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporter, asked = kept(monkeypatch, ParentBased(ALWAYS_ON))
    greeter = Greeter()
    async with running(service(greeter)) as ran:
        greeter.onward = rpc.GreeterStub(ran.channel("greeter"))
        mine = ("traceparent", f"00-{TRACE}-{PARENT}-00")
        await greeter.onward.SayHello(pb.HelloRequest(name="onward"), metadata=(mine,))
        assert exporter.get_finished_spans() == ()
        assert asked == []
        assert [one["traceparent"] for one in greeter.metadata] == [mine[1], mine[1]]
        # The program's own spans in the handler are not sampled either.
        await greeter.onward.SayHello(pb.HelloRequest(name="Ada"))
        await until(exporter, 2)


async def test_what_the_sampler_may_keep_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, asked = kept(monkeypatch, ParentBased(ALWAYS_OFF, remote_parent_not_sampled=ALWAYS_ON))
    async with running(service(Greeter())) as ran:
        await rpc.GreeterStub(ran.channel("greeter")).SayHello(pb.HelloRequest(name="Ada"))
        (server,) = await until(exporter, 1)
    assert server.kind is trace.SpanKind.SERVER
    assert asked == [HELLO, HELLO]


@pytest.mark.parametrize("flags", ["00", "01", None])
async def test_where_nothing_is_sampled_callees_are_told_so(
    monkeypatch: pytest.MonkeyPatch, flags: str | None
) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    greeter = Greeter()
    async with running(service(greeter)) as ran:
        metadata = (("traceparent", f"00-{TRACE}-{PARENT}-{flags}"),) if flags else ()
        await rpc.GreeterStub(ran.channel("greeter")).SayHello(pb.HelloRequest(name="Ada"), metadata=metadata)
    version, trace_id, span_id, sent = greeter.metadata[0]["traceparent"].split("-")
    assert (version, sent) == ("00", "00")
    assert (len(trace_id), len(span_id)) == (32, 16)
    assert int(trace_id, 16)
    assert int(span_id, 16)
    assert (trace_id == TRACE) is (flags is not None)
    assert (span_id == PARENT) is (flags == "00")


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("based", [True, False])
@pytest.mark.parametrize("end", ["client", "server"])
def test_roots_are_kept_by_the_ids_of_their_traces_as_the_sampler_would(
    monkeypatch: pytest.MonkeyPatch, rate: float, based: bool, end: str
) -> None:
    sampler: Any = ParentBased(TraceIdRatioBased(rate)) if based else TraceIdRatioBased(rate)
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    made = tracing.Tracing()
    kept, dropped = [], []

    def call() -> None:
        if end == "client":
            span, ((_, parent),) = made.begin_call(f"/{HELLO}", "greeter", None)
            if span is not None:
                made.end_call(span, 0, "", time.time_ns())
        else:
            served = made.begin_served(f"/{HELLO}", ())
            current = trace.get_current_span().get_span_context()
            parent = f"00-{current.trace_id:032x}-{current.span_id:016x}-{current.trace_flags:02x}"
            if served is not None:
                served.end(0)
        _, trace_id, _, flags = str(parent).split("-")
        (kept if int(flags, 16) & 1 else dropped).append(int(trace_id, 16))

    for _ in range(400):
        contextvars.copy_context().run(call)
    limit, bound = TraceIdRatioBased.TRACE_ID_LIMIT, TraceIdRatioBased(rate).bound
    assert all(trace_id & limit < bound for trace_id in kept)
    assert all(trace_id & limit >= bound for trace_id in dropped)
    assert {span.context.trace_id for span in exporter.get_finished_spans()} == set(kept)
    assert len({*kept, *dropped}) == 400
    # A quarter of 400 is 100, give or take five standard deviations of 8.7.
    low, high = {0.0: (0, 0), 0.25: (56, 144), 1.0: (400, 400)}[rate]
    assert low <= len(kept) <= high


async def test_a_root_of_which_nothing_is_kept_has_ids_that_stay_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(sampler=ALWAYS_OFF))
    seen: list[Any] = []

    class Looking(Greeter):
        async def SayHello(self, request: Any, context: Any) -> Any:
            self.metadata.append(dict(context.invocation_metadata()))
            if request.name == "onward":
                seen.append(tracing.current_ids())
                await self.onward.SayHello(pb.HelloRequest(name="Ada"))
            seen.append(tracing.current_ids())
            return pb.HelloReply(message="Hello")

    greeter = Looking()
    async with running(service(greeter)) as ran:
        greeter.onward = rpc.GreeterStub(ran.channel("greeter"))
        async with grpc.aio.insecure_channel(ran.node.address) as bare:
            await rpc.GreeterStub(bare).SayHello(pb.HelloRequest(name="onward"))
    before, inside, after = seen
    assert before == inside == after
    assert greeter.metadata[1]["traceparent"] == f"00-{before[0]}-{before[1]}-00"
    assert "traceparent" not in greeter.metadata[0]
    current = trace.get_current_span().get_span_context()
    assert not current.is_valid


async def test_baggage_and_trace_state_go_along_whether_a_call_is_sampled_or_not(
    spans: InMemorySpanExporter,
) -> None:
    greeter = Greeter()
    async with running(service(greeter)) as ran:
        greeter.onward = rpc.GreeterStub(ran.channel("greeter"))
        for flags in ("00", "01"):
            sent = (
                ("traceparent", f"00-{TRACE}-{PARENT}-{flags}"),
                ("tracestate", "vendor=1"),
                ("baggage", "tenant=blue"),
            )
            await greeter.onward.SayHello(pb.HelloRequest(name="onward"), metadata=sent)
        token = context.attach(baggage.set_baggage("tenant", "red"))
        try:
            await greeter.onward.SayHello(pb.HelloRequest(name="Ada"))
        finally:
            context.detach(token)
    *passed, own = greeter.metadata
    assert len(passed) == 4
    for one in passed:
        assert one["traceparent"].split("-")[1] == TRACE
        assert (one["tracestate"], one["baggage"]) == ("vendor=1", "tenant=blue")
    assert own["baggage"] == "tenant=red"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{TRACE}-{PARENT}",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        "0" * 5000,
        "\x01",
    ],
)
async def test_what_is_no_parent_counts_as_none(spans: InMemorySpanExporter, text: str) -> None:
    above, over = tracing.Tracing()._extract([("traceparent", text), ("user-agent", "x")])
    assert not over.is_valid
    assert not trace.get_current_span(above).get_span_context().is_valid


def test_our_reading_of_a_parent_is_that_of_the_propagator(spans: InMemorySpanExporter) -> None:
    for text in (f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00", f"01-{TRACE}-{PARENT}-01-more"):
        _, over = tracing.Tracing()._extract([("traceparent", text)])
        theirs = propagate.extract({"traceparent": text})
        assert over == trace.get_current_span(theirs).get_span_context()
        assert over.is_remote


async def test_a_propagator_that_the_program_has_set_is_the_one_that_is_used(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shouting(TraceContextTextMapPropagator):
        def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
            carrier["X-Shout"] = "yes"

    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", Shouting())
    greeter = Greeter()
    async with running(service(greeter)) as ran:
        await rpc.GreeterStub(ran.channel("greeter")).SayHello(pb.HelloRequest(name="Ada"))
    assert greeter.metadata[0]["x-shout"] == "yes"
    assert "traceparent" not in greeter.metadata[0]


@pytest.mark.parametrize("form", ["json", "human"])
async def test_lines_of_the_log_say_which_call_they_belong_to(spans: InMemorySpanExporter, form: str) -> None:
    stream = io.StringIO()
    with bare_logging():
        set_up(Config(log_format=form, log_level="warning"), stream)
        async with running(service(Greeter())) as ran:
            await rpc.GreeterStub(ran.channel("greeter")).SayHello(pb.HelloRequest(name="Ada"))
            _, server = await until(spans, 2)
        logging.getLogger("shop").warning("nothing to do")
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


async def test_a_served_calls_span_names_its_caller(spans: InMemorySpanExporter, tmp_path: Path) -> None:
    authority = trustme.CA()
    folders = {}
    for name in ("greeter", "cart"):
        folders[name] = Folder(tmp_path / name)
        folders[name].issue(authority, name)
    registry = pymicro.MemoryRegistry()
    made = pymicro.Service("greeter", registry=registry, **folders["greeter"].settings)
    made.add(Greeter())
    async with made, pymicro.Client(registry=registry, **folders["cart"].settings) as client:
        await rpc.GreeterStub(client.channel("greeter")).SayHello(pb.HelloRequest(name="Ada"))
        _, server = await until(spans, 2)
    assert server.attributes is not None
    assert server.attributes["pymicro.caller"] == "cart"


async def test_and_by_what_its_calls_carry(spans: InMemorySpanExporter, tmp_path: Path) -> None:
    secret, digests = tmp_path / "key", tmp_path / "keys.toml"
    secret.write_text("open-sesame")
    digests.write_text(f"cart = '{hashlib.sha256(b'open-sesame').hexdigest()}'")
    registry = pymicro.MemoryRegistry()
    accepted = pymicro.api_keys(digests, plain_text=True)
    made = pymicro.Service("greeter", registry=registry, interceptors=[accepted])
    made.add(Greeter())
    sent = pymicro.api_key(secret, plain_text=True)
    async with made, pymicro.Client(registry=registry, interceptors=[sent]) as client:
        await rpc.GreeterStub(client.channel("greeter")).SayHello(pb.HelloRequest(name="Ada"))
        client_span, server = await until(spans, 2)
    assert server.attributes is not None
    assert server.attributes["pymicro.caller"] == "key:cart"
    for span in (client_span, server):
        assert "open-sesame" not in span.to_json()
