"""Unmodified generated servicers, and whatever else is given to a grpc server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from pymicro.base.errors import HandlersError
from pymicro.serving.call.context import CallContext, current
from pymicro.serving.server import Server
from pymicro.settings.config import Config
from tests.protos import strict_pb2_grpc, zoo_pb2_grpc
from tests.protos import zoo_pb2 as pb
from tests.serving import same_names
from tests.serving.serving import eventually, everything_in, serving

SECRET = "password=hunter2"


class Servicer(zoo_pb2_grpc.KeeperServicer):  # type: ignore[misc]
    """As written for grpc.aio, Talk left out."""

    async def Import(self, request: Any, context: Any) -> Any:
        assert isinstance(context, grpc.aio.ServicerContext)
        assert current() is context
        if request.name == "code":
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("no such ant")
            return pb.Animal()
        if request.name == "crash":
            context.set_code(grpc.StatusCode.OUT_OF_RANGE)
            raise ValueError(SECRET)
        return pb.Animal(name=request.name.upper())

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield pb.Animal(name=request.name)

    async def Count(self, requests: Any, context: Any) -> Any:
        count = 0
        while await context.read() is not grpc.aio.EOF:
            count += 1
        return pb.Tally(count=count)


def whole(server: Server) -> None:
    server.add(Servicer())


def with_its_module(server: Server) -> None:
    server.add(Servicer(), pb)


def through_generated_code(server: Server) -> None:
    zoo_pb2_grpc.add_KeeperServicer_to_server(Servicer(), server)


def through_older_generated_code(server: Server) -> None:
    class Older:
        """What the generated function did before grpcio 1.66."""

        add_generic_rpc_handlers = server.add_generic_rpc_handlers

        def add_registered_method_handlers(self, name: str, handlers: Any) -> None: ...

    zoo_pb2_grpc.add_KeeperServicer_to_server(Servicer(), Older())


WAYS = [whole, with_its_module, through_generated_code, through_older_generated_code]


@pytest.mark.parametrize("add", WAYS, ids=lambda add: add.__name__)
async def test_a_generated_servicer_is_served_as_it_is(add: Callable[[Server], None]) -> None:
    async with serving(add=add) as running:
        assert running.server.services == ("pymicro.tests.zoo.Keeper",)
        assert await running.ask("Import") == ["ANT"]
        assert await running.ask("Watch") == ["ant"]
        assert await running.ask("Count", "a", "b") == ["2"]
        error = await running.failure("Talk", ends=False)
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "does not implement it" in (error.details() or "")
        error = await running.failure("Import", "code")
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such ant")
        error = await running.failure("Import", "crash")
        assert error.code() is grpc.StatusCode.OUT_OF_RANGE
        assert SECRET not in everything_in(error)


ALIKE = [
    same_names.KeeperServicer,
    same_names.Inherited,
    same_names.GateServicer,
    same_names.Mixed,
    same_names.Decorated,
]


@pytest.mark.parametrize("through_code", [False, True], ids=["whole", "through-generated-code"])
@pytest.mark.parametrize("servicer", ALIKE, ids=lambda servicer: servicer.__name__)
async def test_a_servicer_named_like_generated_code_serves_what_it_overrides(
    servicer: type[Any], through_code: bool
) -> None:
    def add(server: Server) -> None:
        if through_code:
            same_names.add_KeeperServicer_to_server(servicer(), server)
        else:
            server.add(servicer())

    async with serving(add=add) as running:
        assert running.server.services == ("pymicro.tests.zoo.Keeper",)
        assert await running.ask("Import") == ["ANT"]
        assert await running.ask("Watch") == ["ant"]
        assert await running.ask("Count", "a", "b") == ["2"]
        error = await running.failure("Talk", ends=False)
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "does not implement it" in (error.details() or "")


async def test_a_servicer_for_two_services_serves_both() -> None:
    class Both(zoo_pb2_grpc.KeeperServicer, zoo_pb2_grpc.GateServicer):  # type: ignore[misc]
        def Import(self, request: Any, context: Any) -> Any:
            return pb.Animal(name=f"thread {request.name}")

        async def OpenGate(self, request: Any, context: Any) -> Any:
            return pb.Tally(count=7)

    async with serving(add=lambda server: server.add(Both())) as running:
        assert running.server.services == ("pymicro.tests.zoo.Gate", "pymicro.tests.zoo.Keeper")
        assert await running.ask("Import") == ["thread ant"]
        assert await running.channel.unary_unary("/pymicro.tests.zoo.Gate/OpenGate")(b"") == b"\x08\x07"


async def test_a_sync_servicers_abort_blocks_and_raises_as_it_was_written_to() -> None:
    class Sync(zoo_pb2_grpc.KeeperServicer):  # type: ignore[misc]
        def Import(self, request: Any, context: Any) -> Any:
            done: list[bool] = []
            assert context.is_active()
            assert context.add_callback(lambda: done.append(True))
            context.send_initial_metadata((("x-early", "1"),))
            context.abort(grpc.StatusCode.ABORTED, "as written")
            raise AssertionError

    async with serving(add=lambda server: server.add(Sync())) as running:
        error = await running.failure("Import")
        assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "as written")
        assert ("x-early", "1") in tuple(error.initial_metadata() or ())


def test_a_servicer_that_does_not_fit_is_a_mismatch() -> None:
    class Wrong(zoo_pb2_grpc.KeeperServicer):  # type: ignore[misc]
        def Count(self, requests: Any, context: Any) -> Any: ...

        def Watch(self, request: Any, context: Any) -> Any:
            yield pb.Animal()

        async def Import(self, request: Any, context: Any, more: Any) -> Any: ...

    for add in (
        lambda server: server.add(Wrong()),
        lambda server: zoo_pb2_grpc.add_KeeperServicer_to_server(Wrong(), server),
    ):
        server = Server(Config())
        add(server)
        with pytest.raises(HandlersError) as caught:
            server.check()
        assert len(caught.value.mismatches) == 3
        text = str(caught.value)
        assert "Wrong.Count for /pymicro.tests.zoo.Keeper/Count" in text
        assert "make it `async def`" in text
        assert "(request, context, more)" in text
        assert "test_servicers.py:" in text


async def test_a_required_field_missing_from_a_servicers_reply_does_not_leak() -> None:
    class Strict(strict_pb2_grpc.StrictnessServicer):  # type: ignore[misc]
        async def Fill(self, request: Any, context: Any) -> Any:
            return type(request)()

    async with serving(add=lambda server: server.add(Strict())) as running:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.channel.unary_unary("/pymicro.tests.strict.Strictness/Fill")(b"\x0a\x01x")
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "secret_field" not in everything_in(caught.value)


async def test_generic_handlers_without_a_proto_are_served(caplog: pytest.LogCaptureFixture) -> None:
    async def reverse(request: bytes, context: CallContext) -> bytes:
        if request == b"crash":
            raise ValueError(SECRET)
        return request[::-1] if request != b"wrong" else 7  # type: ignore[return-value]

    class Dynamic(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            if handler_call_details.method == "/broken/Lookup":
                raise ValueError(SECRET)
            if handler_call_details.method.startswith("/dynamic/"):
                return grpc.unary_unary_rpc_method_handler(reverse)
            return None

    def add(server: Server) -> None:
        handlers = {"Reverse": grpc.unary_unary_rpc_method_handler(reverse)}
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("raw.Bytes", handlers), Dynamic()]
        )

    async with serving(add=add) as running:
        assert [endpoint.name for endpoint in running.server.endpoints()] == ["Bytes.Reverse"]
        for path in ("/raw.Bytes/Reverse", "/dynamic/anything"):
            call = running.channel.unary_unary(path)
            assert await call(b"abc") == b"cba"
            for request in (b"crash", b"wrong"):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(request)
                assert caught.value.code() is grpc.StatusCode.INTERNAL
                assert SECRET not in everything_in(caught.value)
        for path in ("/broken/Lookup", "/other/Thing"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await running.channel.unary_unary(path)(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert SECRET not in everything_in(caught.value)
    assert [r.levelno for r in caplog.records if "the generic handler" in r.getMessage()] == [logging.ERROR]


class _Leaving(zoo_pb2_grpc.KeeperServicer):  # type: ignore[misc]
    """Leaves a task behind that reads, or reads after it has aborted."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.found: list[str] = []

    async def Talk(self, requests: Any, context: Any) -> Any:
        reading = asyncio.Event()

        async def read() -> None:
            reading.set()
            await context.read()

        self.task = asyncio.create_task(read())
        await reading.wait()

    async def Count(self, requests: Any, context: Any) -> Any:
        try:
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        except grpc.aio.AbortError:
            for use in (context.read, lambda: context.send_initial_metadata(())):
                try:
                    await use()
                except Exception as exc:
                    self.found.append(type(exc).__name__)
            raise


async def test_a_task_that_reads_for_a_handler_ends_with_it() -> None:
    servicer = _Leaving()
    async with serving(add=lambda server: server.add(servicer)) as running:
        call = running.rpc("Talk")(timeout=20)
        async with asyncio.timeout(10):
            assert [message async for message in call] == []
            assert servicer.task is not None
            # grpc.aio may tell it of the end of the requests, or that the call has finished.
            await asyncio.gather(servicer.task, return_exceptions=True)


async def test_after_an_abort_nothing_more_is_read_or_sent() -> None:
    servicer = _Leaving()
    async with serving(add=lambda server: server.add(servicer)) as running:
        error = await running.failure("Count", ends=False)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        await eventually(lambda: running.server.in_progress == 0, "the handler has left")
        assert servicer.found == ["AbortError", "AbortError"]
