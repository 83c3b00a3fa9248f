"""Methods that may run twice: how they are marked, and that every answer of theirs says so."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

import pymicro
from pymicro.rpc.wire.metadata import IDEMPOTENT, PREVIOUS_ATTEMPTS, STANDARD_PREVIOUS_ATTEMPTS
from pymicro.serving.call.context import CallContext
from pymicro.serving.handlers import handler, idempotent
from pymicro.serving.server import Server
from pymicro.settings.config import Config
from tests.protos import zoo_pb2 as pb
from tests.protos import zoo_pb2_grpc
from tests.serving.serving import Running, eventually, serving
from tests.serving.test_foreign_interceptors import Seeing, passing

KEEPER = pb.DESCRIPTOR.services_by_name["Keeper"]
SHAPES = ("Import", "Watch", "Count", "Talk")
AROUND = pytest.mark.parametrize(
    "around",
    [[], [passing], [Seeing()], [Seeing(), passing]],
    ids=["bare", "ours", "foreign", "both"],
)


def marked(server: Server) -> list[str]:
    """Names of the methods that count as marked."""
    return [
        endpoint.name.partition(".")[2]
        for endpoint in server.endpoints()
        if endpoint.metadata.get("idempotent") == "true"
    ]


def marked_of(obj: object, source: Any = KEEPER) -> list[str]:
    server = Server(Config())
    server.add(obj, source, partial=True)
    server.check()
    return marked(server)


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def around(*args: Any) -> Any:
        return await function(*args)

    return around


class Base:
    @handler
    @idempotent
    async def import_(self, request: pb.Animal) -> pb.Animal:
        return pb.Animal()

    @idempotent
    @handler
    async def watch(self, request: pb.Query) -> AsyncIterator[pb.Animal]:
        yield pb.Animal()

    @handler
    async def count(self, requests: AsyncIterator[pb.Animal]) -> pb.Tally:
        return pb.Tally()


def test_a_mark_holds_in_any_order_and_for_nothing_else() -> None:
    assert marked_of(Base()) == ["Import", "Watch"]


def test_a_mark_shows_through_decorators_and_on_static_methods() -> None:
    class Decorated:
        @handler
        @wrapped
        @idempotent
        async def import_(self, request: pb.Animal) -> pb.Animal: ...

        @handler
        @idempotent
        @staticmethod
        async def count(requests: AsyncIterator[pb.Animal]) -> pb.Tally: ...

    assert marked_of(Decorated()) == ["Import", "Count"]


def test_an_override_is_marked_only_if_it_says_so_itself() -> None:
    class Silent(Base):
        async def import_(self, request: pb.Animal) -> pb.Animal:
            return pb.Animal(name="charged twice")

    class Marked(Base):
        @idempotent
        async def import_(self, request: pb.Animal) -> pb.Animal: ...

    class Inheriting(Base):
        pass

    assert marked_of(Silent()) == ["Watch"]
    assert marked_of(Marked()) == ["Import", "Watch"]
    assert marked_of(Inheriting()) == ["Import", "Watch"]


def test_methods_of_generated_servicers_are_marked_too() -> None:
    class Servicer(zoo_pb2_grpc.KeeperServicer):  # type: ignore[misc]
        @idempotent
        async def Import(self, request: Any, context: Any) -> Any: ...

        async def Count(self, requests: Any, context: Any) -> Any: ...

    assert marked_of(Servicer(), None) == ["Import"]
    server = Server(Config())
    zoo_pb2_grpc.add_KeeperServicer_to_server(Servicer(), server)
    assert marked(server) == ["Import"]


def test_the_protos_own_mark_counts() -> None:
    levels = descriptor_pb2.MethodOptions
    file = descriptor_pb2.FileDescriptorProto(
        name="pymicro/tests/levels.proto", package="pymicro.tests.levels", syntax="proto3"
    )
    file.message_type.add(name="Empty")
    service = file.service.add(name="Levels")
    for name, level in (
        ("Unknown", levels.IDEMPOTENCY_UNKNOWN),
        ("Safe", levels.NO_SIDE_EFFECTS),
        ("Again", levels.IDEMPOTENT),
        ("Unset", None),
    ):
        method = service.method.add(name=name, input_type="Empty", output_type="Empty")
        method.input_type = method.output_type = ".pymicro.tests.levels.Empty"
        if level is not None:
            method.options.idempotency_level = level
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call]

    class Levels:
        @handler
        async def unknown(self, request: Any) -> Any: ...

        @handler
        async def safe(self, request: Any) -> Any: ...

        @handler
        async def again(self, request: Any) -> Any: ...

        @handler
        async def unset(self, request: Any) -> Any: ...

    found = pool.FindServiceByName("pymicro.tests.levels.Levels")  # type: ignore[no-untyped-call]
    assert marked_of(Levels(), found) == ["Safe", "Again"]


@pytest.mark.parametrize(
    "wrong",
    [7, type("Greeter", (), {}), classmethod(lambda cls: None)],
    ids=["number", "class", "classmethod"],
)
def test_what_is_no_method_cannot_be_marked(wrong: Any) -> None:
    with pytest.raises(TypeError, match="@idempotent marks methods"):
        idempotent(wrong)


def test_it_is_to_be_had_at_the_top() -> None:
    assert pymicro.idempotent is idempotent


class Answering:
    """Does what it is asked by name, and is marked throughout but for `Count`.

    It reads its requests to their end first: what a client of grpc.aio still sends when
    the status arrives fails, and the client makes INTERNAL of the status.
    """

    async def _do(self, name: str, context: CallContext) -> None:
        if name == "set":
            context.set_trailing_metadata([("x-mine", "1")])
            context.set_trailing("x-more", "2")
        elif name == "raise":
            raise pymicro.NotFound("no", trailing_metadata=[("x-mine", "1")])
        elif name == "crash":
            raise ValueError
        elif name == "abort":
            await context.abort(grpc.StatusCode.ABORTED, "no", [("x-mine", "1")])
        elif name == "abort-bare":
            context.set_trailing("x-mine", "1")
            await context.abort(grpc.StatusCode.ABORTED, "no")
        elif name == "code":
            context.set_code(grpc.StatusCode.DATA_LOSS)

    @idempotent
    @handler
    async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
        await self._do(request.name, context)
        return pb.Animal()

    @idempotent
    @handler
    async def watch(self, request: pb.Query, context: CallContext) -> AsyncIterator[pb.Animal]:
        await self._do(request.name, context)
        yield pb.Animal()

    @handler
    async def count(self, requests: Any, context: CallContext) -> pb.Tally:
        for request in [request async for request in requests]:
            await self._do(request.name, context)
        return pb.Tally()

    @idempotent
    @handler
    async def talk(self, requests: Any, context: CallContext) -> AsyncIterator[pb.Animal]:
        for request in [request async for request in requests]:
            await self._do(request.name, context)
        yield pb.Animal()


async def answer(running: Running, name: str, word: str) -> tuple[grpc.StatusCode, dict[str, Any]]:
    """The status and trailers of a call; without a word nothing is sent on a stream of requests."""
    request, kind = (pb.Query if name == "Watch" else pb.Animal)(name=word), name in ("Count", "Talk")
    call = running.rpc(name)(timeout=20) if kind else running.rpc(name)(request, timeout=20)
    if kind and word:
        await call.write(request)
        await call.done_writing()
    if name in ("Watch", "Talk"):
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for _ in call:  # the status comes after the messages
                pass
    return await call.code(), dict(tuple(await call.trailing_metadata()))


@AROUND
@pytest.mark.parametrize("name", SHAPES)
async def test_every_answer_of_a_marked_method_says_so(name: str, around: list[Any]) -> None:
    mine = {"x-mine": "1"}
    expected = {
        "nothing": (grpc.StatusCode.OK, {}),
        "set": (grpc.StatusCode.OK, {**mine, "x-more": "2"}),
        "raise": (grpc.StatusCode.NOT_FOUND, mine),
        "crash": (grpc.StatusCode.INTERNAL, {"pymicro-from-peer": "1"}),
        "abort": (grpc.StatusCode.ABORTED, mine),
        "abort-bare": (grpc.StatusCode.ABORTED, mine),
        "code": (grpc.StatusCode.DATA_LOSS, {}),
    }
    mark = {} if name == "Count" else dict([IDEMPOTENT])
    async with serving(Answering(), source=KEEPER, interceptors=around) as running:
        found = {word: await answer(running, name, word) for word in expected}
    assert found == {word: (code, {**pairs, **mark}) for word, (code, pairs) in expected.items()}


@AROUND
async def test_what_is_refused_before_it_runs_says_so_too(around: list[Any]) -> None:
    config = Config(max_concurrent_calls=1)
    async with serving(Answering(), source=KEEPER, config=config, interceptors=around) as running:
        talking = running.rpc("Talk")(timeout=20)
        await eventually(lambda: running.server.in_progress == 1, "a call takes the one place")
        found = await answer(running, "Import", "nothing")
        assert found[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert IDEMPOTENT in found[1].items()
        # Nothing may be sent: the refusal comes at once, and a write that meets it replaces it.
        code, trailers = await answer(running, "Count", "")
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert IDEMPOTENT not in trailers.items()
        talking.cancel()


async def test_trailing_metadata_set_outside_survives_the_mark() -> None:
    class Tagging(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            given = await continuation(handler_call_details)

            async def tagged(request: Any, context: Any) -> Any:
                context.set_trailing_metadata((("x-outside", "1"),))
                return await given.unary_unary(request, context)

            return grpc.unary_unary_rpc_method_handler(
                tagged, given.request_deserializer, given.response_serializer
            )

    async with serving(Answering(), source=KEEPER, interceptors=[Tagging()]) as running:
        for word in ("nothing", "raise"):
            _, found = await answer(running, "Import", word)
            assert found["x-outside"] == "1"
            assert IDEMPOTENT in found.items()


# Calls that were tried before


@pytest.mark.parametrize(
    ("sent", "attempts"),
    [
        ([], 0),
        ([(PREVIOUS_ATTEMPTS, "1")], 1),
        ([(PREVIOUS_ATTEMPTS, "0")], 0),
        ([(PREVIOUS_ATTEMPTS, "1"), (PREVIOUS_ATTEMPTS, "x"), (PREVIOUS_ATTEMPTS, "2")], 2),
        ([(PREVIOUS_ATTEMPTS, "007")], 7),
        *[([(PREVIOUS_ATTEMPTS, junk)], 0) for junk in ("-1", "", "1.0", "1_0", "true", "+1", "9" * 6000)],
        ([("x-previous-attempts", "3")], 0),
    ],
    ids=str,
)
async def test_a_handler_knows_how_often_a_call_was_tried_before(
    sent: list[tuple[str, str]], attempts: int
) -> None:
    seen: list[tuple[int, bool]] = []

    class Noting:
        @handler
        async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            seen.append((context.previous_attempts, context.retried))
            return pb.Animal()

    async with serving(Noting(), source=KEEPER) as running:
        await running.ask("Import", metadata=sent)
    assert seen == [(attempts, attempts > 0)]


@pytest.mark.grpc_only("grpc-core makes the attempts")
async def test_grpcs_own_count_of_attempts_is_read_as_well() -> None:
    seen: list[int] = []

    class Noting:
        @handler
        async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            seen.append(context.previous_attempts)
            return pb.Animal()

    # grpc-core takes the key away from an application's metadata where its retries are on.
    off = [("grpc.enable_retries", 0)]
    async with (
        serving(Noting(), source=KEEPER) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{running.port}", options=off) as channel,
    ):
        rpc = channel.unary_unary("/pymicro.tests.zoo.Keeper/Import")
        await rpc(b"", metadata=[(STANDARD_PREVIOUS_ATTEMPTS, "3")], timeout=20)
    assert seen == [3]
