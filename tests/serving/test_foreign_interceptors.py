"""Other people's grpc.aio interceptors around our dispatch: OpenTelemetry's, and one that sees messages."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, get_current_span

from pymicro.rpc.interceptors import Proceed
from pymicro.rpc.status import NotFound
from pymicro.serving.call.context import CallContext
from pymicro.serving.handlers import handler
from pymicro.serving.server import Server
from tests.protos import zoo_pb2 as pb
from tests.protos import zoo_pb2_grpc
from tests.serving.serving import KINDS, ZOO, eventually, everything_in, serving, stops_growing
from tests.serving.test_dispatch import Keeper

KEEPER = pb.DESCRIPTOR.services_by_name["Keeper"]
NAMES = ("Import", "Watch", "Count", "Talk")
ANSWERS = {"Import": ["ANT"], "Watch": ["ant0", "ant1", "ant2"], "Count": ["1"], "Talk": ["ANT"]}


class Telemetry:
    """An OpenTelemetry interceptor and the spans it has ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider()
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.interceptor = aio_server_interceptor(tracer_provider=self._provider)

    async def spans(self, count: int) -> list[ReadableSpan]:
        await eventually(
            lambda: len(self._exporter.get_finished_spans()) >= count, f"{count} spans have ended"
        )
        found = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        assert len(found) == count
        return found

    def close(self) -> None:
        self._provider.shutdown()


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry()
    yield made
    made.close()


class Crashing:
    @handler
    async def import_(self, request: pb.Animal) -> pb.Animal:
        raise ValueError("secret")

    @handler
    async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
        yield pb.Animal()
        raise ValueError("secret")

    @handler
    async def count(self, requests: Any) -> pb.Tally:
        raise ValueError("secret")

    @handler
    async def talk(self, requests: Any) -> AsyncIterator[pb.Animal]:
        raise ValueError("secret")
        yield


async def passing(call: CallContext, proceed: Proceed) -> Any:
    return await proceed()


@pytest.mark.parametrize("ours", [[], [passing]], ids=["alone", "with-ours"])
async def test_opentelemetry_traces_all_four_shapes(telemetry: Telemetry, ours: list[Any]) -> None:
    async with serving(Keeper(), interceptors=[telemetry.interceptor, *ours]) as running:
        for name in NAMES:
            assert await running.ask(name) == ANSWERS[name]
            (span,) = await telemetry.spans(1)
            assert span.name == f"/pymicro.tests.zoo.Keeper/{name}"
            assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("ours", [[], [passing]], ids=["alone", "with-ours"])
async def test_opentelemetry_records_a_crash_as_an_error_and_nothing_leaks(
    telemetry: Telemetry, ours: list[Any]
) -> None:
    async with serving(Crashing(), source=KEEPER, interceptors=[telemetry.interceptor, *ours]) as running:
        for name in NAMES:
            error = await running.failure(name, ends=False)
            assert error.code() is grpc.StatusCode.INTERNAL
            assert "secret" not in everything_in(error)
            (span,) = await telemetry.spans(1)
            assert span.status.status_code is StatusCode.ERROR
            assert (span.attributes or {})["rpc.grpc.status_code"] == 13


async def test_opentelemetry_sees_a_raised_status(telemetry: Telemetry) -> None:
    class Missing:
        @handler("Talk")
        async def talk(self, requests: Any) -> AsyncIterator[pb.Animal]:
            raise NotFound("no")
            yield

    async with serving(Missing(), source=KEEPER, interceptors=[telemetry.interceptor]) as running:
        assert (await running.failure("Talk", ends=False)).code() is grpc.StatusCode.NOT_FOUND
        (span,) = await telemetry.spans(1)
        assert (span.attributes or {})["rpc.grpc.status_code"] == 5


@pytest.mark.parametrize("ours", [[], [passing]], ids=["alone", "with-ours"])
async def test_the_handler_runs_inside_the_span(telemetry: Telemetry, ours: list[Any]) -> None:
    inside: list[bool] = []

    class Looking:
        @handler
        def import_(self, request: pb.Animal) -> pb.Animal:
            inside.append(get_current_span().get_span_context().is_valid)
            return pb.Animal()

        @handler
        async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
            inside.append(get_current_span().get_span_context().is_valid)
            yield pb.Animal()

    async with serving(Looking(), source=KEEPER, interceptors=[telemetry.interceptor, *ours]) as running:
        await running.ask("Import")
        await running.ask("Watch")
    assert inside == [True, True]


async def test_health_watch_works_under_opentelemetry(telemetry: Telemetry) -> None:
    async with serving(Keeper(), interceptors=[telemetry.interceptor]) as running:
        stub = health_pb2_grpc.HealthStub(running.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        running.server.set_serving(False)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        running.server.begin_drain()
        assert await watch.read() is grpc.aio.EOF
        assert await watch.code() is grpc.StatusCode.OK


async def test_an_unknown_method_passes_foreign_interceptors(telemetry: Telemetry) -> None:
    async with serving(Keeper(), interceptors=[telemetry.interceptor]) as running:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.channel.unary_unary("/no.Such/Thing")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        await telemetry.spans(1)


class Seeing(grpc.aio.ServerInterceptor):
    """Counts and marks the responses of every shape, by iterating streams."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        given = await continuation(handler_call_details)
        if not given.response_streaming:
            return given
        kind = "stream_stream" if given.request_streaming else "unary_stream"
        behaviour = getattr(given, kind)

        async def iterate(request: Any, context: Any) -> AsyncIterator[Any]:
            async for message in behaviour(request, context):
                self.seen.append(message.name)
                message.name += "!"
                yield message

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(
            iterate,
            request_deserializer=given.request_deserializer,
            response_serializer=given.response_serializer,
        )


class Writer(zoo_pb2_grpc.KeeperServicer):  # type: ignore[misc]
    """grpc's reader and writer style."""

    async def Watch(self, request: Any, context: Any) -> None:
        for number in range(3):
            await context.write(pb.Animal(name=f"{request.name}{number}"))

    async def Talk(self, requests: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(pb.Animal(name=request.name.upper()))
            if request.name == "crash":
                raise ValueError("secret")


@pytest.mark.parametrize("ours", [[], [passing]], ids=["alone", "with-ours"])
@pytest.mark.parametrize("writes", [True, False], ids=["writer", "generator"])
async def test_foreign_interceptors_see_every_message(ours: list[Any], writes: bool) -> None:
    seeing = Seeing()

    def add(server: Server) -> None:
        server.add(Writer()) if writes else server.add(Keeper(), pb)

    async with serving(add=add, interceptors=[*ours, seeing]) as running:
        assert await running.ask("Watch") == ["ant0!", "ant1!", "ant2!"]
        assert await running.ask("Talk", "a", "b") == ["A!", "B!"]
        if writes:
            error = await running.failure("Talk", "a", "crash", ends=False)
            assert error.code() is grpc.StatusCode.INTERNAL
            assert "secret" not in everything_in(error)
            assert seeing.seen[5:] == ["A", "CRASH"]
    assert seeing.seen[:5] == ["ant0", "ant1", "ant2", "A", "B"]


async def test_a_relayed_stream_keeps_pace_with_its_reader_and_cleans_up() -> None:
    made = 0
    ended: list[str] = []

    class Endless:
        @handler("Watch")
        async def watch(self, request: pb.Query, context: CallContext) -> AsyncIterator[pb.Animal]:
            nonlocal made
            try:
                while True:
                    made += 1
                    yield pb.Animal(name="x" * 100_000)
            finally:
                ended.append(f"cancelled {context.cancelled()}")

    async with serving(Endless(), source=KEEPER, interceptors=[passing, Seeing()]) as running:
        call = running.rpc("Watch")(pb.Query())
        await call.read()
        # Full windows hold it: some 30 MB at the most, where unheld it would make GBs.
        assert await stops_growing(lambda: made) < 1000
        call.cancel()
        await eventually(lambda: len(ended) == 1, "the generator was closed")
        await eventually(lambda: running.server.in_progress == 0, "the call has ended")


@pytest.mark.parametrize("ours", [[], [passing]], ids=["alone", "with-ours"])
async def test_a_writer_that_writes_while_it_cleans_up_ends_with_its_call(ours: list[Any]) -> None:
    began, failed = asyncio.Event(), []

    class Saying(zoo_pb2_grpc.KeeperServicer):  # type: ignore[misc]
        async def Watch(self, request: Any, context: Any) -> None:
            try:
                await context.write(pb.Animal(name="one"))
                began.set()
                await asyncio.Event().wait()
            finally:
                try:
                    await context.write(pb.Animal(name="goodbye"))
                except grpc.aio.BaseError as exc:  # as a bare server's `write` does
                    failed.append(exc)

    async with serving(add=lambda server: server.add(Saying()), interceptors=[Seeing(), *ours]) as running:
        call = running.rpc("Watch")(pb.Query())
        await began.wait()
        call.cancel()
        await eventually(lambda: running.server.in_progress == 0, "the call has ended")
        assert failed


async def test_a_foreign_interceptor_that_breaks_a_response_leaks_nothing() -> None:
    class Breaking(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            given = await continuation(handler_call_details)

            async def answer(request: Any, context: Any) -> Any:
                await given.unary_unary(request, context)
                return "secret"

            return grpc.unary_unary_rpc_method_handler(
                answer, given.request_deserializer, given.response_serializer
            )

    async with serving(Keeper(), interceptors=[Breaking()]) as running:
        error = await running.failure("Import")
        assert "secret" not in everything_in(error)
        assert "internal error" in (error.details() or "")


class Failing(grpc.aio.ServerInterceptor):
    """Raises, before it has found the handler or around it."""

    def __init__(self, exc: BaseException, early: bool) -> None:
        self._exc = exc
        self._early = early

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        if self._early:
            raise self._exc
        given = await continuation(handler_call_details)
        kind = KINDS[handler_call_details.method.rpartition("/")[2]]

        async def respond(request: Any, context: Any) -> Any:
            raise self._exc

        async def iterate(request: Any, context: Any) -> AsyncIterator[Any]:
            raise self._exc
            yield

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        around = iterate if given.response_streaming else respond
        return make(around, given.request_deserializer, given.response_serializer)


@pytest.mark.parametrize("go_micro", [False, True], ids=["ordinary", "go-micro"])
@pytest.mark.parametrize("early", [False, True], ids=["around", "before"])
async def test_what_a_foreign_interceptor_raises_ends_as_a_handlers_exception(
    early: bool, go_micro: bool, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = (("micro-from-service", "go"),) if go_micro else ()
    async with serving(Keeper(), interceptors=[Failing(ValueError("secret"), early)]) as running:
        for name in NAMES:
            error = await running.failure(name, ends=False, metadata=metadata)
            assert error.code() is grpc.StatusCode.INTERNAL
            assert "secret" not in everything_in(error)
            match = re.search(r"internal error, id ([0-9a-f]{8})", error.details() or "")
            assert match
            assert (error.details() == match[0]) is not go_micro
            # The line may come a moment after the answer.
            await eventually(lambda ident=match[1]: ident in caplog.text, "the log says so")  # type: ignore[misc]
            (record,) = [r for r in caplog.records if match[1] in r.getMessage()]
            assert record.exc_info
            assert f"Keeper/{name}" in record.getMessage()
    async with serving(Keeper(), interceptors=[Failing(NotFound("no"), early)]) as running:
        for name in NAMES:
            error = await running.failure(name, ends=False, metadata=metadata)
            assert error.code() is grpc.StatusCode.NOT_FOUND
    assert len(caplog.records) == 4


async def test_a_foreign_interceptor_sees_no_request_that_does_not_parse() -> None:
    seen: list[Any] = []

    class Looking(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            given = await continuation(handler_call_details)
            shape = KINDS[handler_call_details.method.rpartition("/")[2]]
            behaviour = getattr(given, shape)

            async def respond(request: Any, context: Any) -> Any:
                seen.append(request)
                return await behaviour(request, context)

            async def iterate(request: Any, context: Any) -> AsyncIterator[Any]:
                seen.append(request)
                async for message in behaviour(request, context):
                    yield message

            def parse(raw: bytes) -> Any:  # as interceptors that decrypt do
                message = given.request_deserializer(raw)
                seen.append(message)
                return message

            make = getattr(grpc, f"{shape}_rpc_method_handler")
            return make(iterate if given.response_streaming else respond, parse, given.response_serializer)

    async with serving(Keeper(), interceptors=[Looking()]) as running:
        for name, kind in (("Import", "Animal"), ("Watch", "Query")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await running.channel.unary_unary(f"{ZOO}/{name}")(b"\xff\xff\xff", timeout=20)
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert caught.value.details() == f"the request does not parse as pymicro.tests.zoo.{kind}"
    assert seen == []


async def test_an_interceptors_plain_functions_run_in_threads() -> None:
    """As grpc.aio has it: `context` blocks there."""
    loop = threading.get_ident()

    class Plain(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            def abort(request: Any, context: Any) -> None:
                assert threading.get_ident() != loop
                who = dict(context.invocation_metadata())["x-who"]
                context.abort(grpc.StatusCode.UNAUTHENTICATED, who)

            def stream(requests: Any, context: Any) -> Iterator[Any]:
                context.send_initial_metadata((("x-early", "1"),))
                for request in requests:
                    yield pb.Animal(name=request.name * 2)

            if "Talk" not in handler_call_details.method:
                return grpc.unary_unary_rpc_method_handler(abort)
            given = await continuation(handler_call_details)
            return grpc.stream_stream_rpc_method_handler(
                stream, given.request_deserializer, given.response_serializer
            )

    async with serving(Keeper(), interceptors=[Plain()]) as running:
        for name in ("Import", "Watch"):
            error = await running.failure(name, metadata=(("x-who", "me"),))
            assert (error.code(), error.details()) == (grpc.StatusCode.UNAUTHENTICATED, "me")
        assert await running.ask("Talk", "a", "b") == ["aa", "bb"]


async def test_a_bad_response_is_refused_before_foreign_interceptors_see_it(telemetry: Telemetry) -> None:
    class Wrong:
        @handler("Import")
        async def import_(self, request: pb.Animal) -> Any:
            return pb.Tally()

    async with serving(Wrong(), source=KEEPER, interceptors=[telemetry.interceptor]) as running:
        assert (await running.failure("Import")).code() is grpc.StatusCode.INTERNAL
        (span,) = await telemetry.spans(1)
        assert span.status.status_code is StatusCode.ERROR


async def test_trailing_metadata_set_outside_is_kept_beside_the_handlers_own() -> None:
    class Tagging(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            given = await continuation(handler_call_details)

            async def answer(request: Any, context: Any) -> Any:
                context.set_trailing_metadata((("x-outside", "1"),))
                return await given.unary_unary(request, context)

            return grpc.unary_unary_rpc_method_handler(
                answer, given.request_deserializer, given.response_serializer
            )

    class Setting:
        @handler("Import")
        async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            context.set_trailing("x-inside", "2")
            if request.name:
                raise NotFound("no")
            return pb.Animal()

    async with serving(Setting(), source=KEEPER, interceptors=[Tagging()]) as running:
        call = running.rpc("Import")(pb.Animal(), timeout=20)
        await call
        assert list(await call.trailing_metadata()) == [("x-outside", "1"), ("x-inside", "2")]
        error = await running.failure("Import", "x")
        assert list(error.trailing_metadata() or ()) == [("x-outside", "1"), ("x-inside", "2")]
