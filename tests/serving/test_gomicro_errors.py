"""What go-micro's callers get of every error: its JSON as text, the right code, no rich details."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from pymicro.rpc.status import NotFound, Unavailable
from pymicro.rpc.wire.gomicro import load_error
from pymicro.rpc.wire.metadata import IDEMPOTENT, NOT_STARTED
from pymicro.rpc.wire.status import DETAILS_KEY, FROM_PEER, encoded_size
from pymicro.serving.call.context import CallContext
from pymicro.serving.handlers import handler, idempotent
from pymicro.settings.config import Config
from tests.protos import zoo_pb2 as pb
from tests.protos import zoo_pb2_grpc
from tests.serving.gomicro_caller import JSON, NAMES, PROTOBUF, GoCaller
from tests.serving.serving import Running, eventually, serving
from tests.serving.test_admission import Waiting, full
from tests.serving.test_foreign_interceptors import Seeing, Telemetry, passing
from tests.serving.test_handler_errors import all_shapes

KEEPER = pb.DESCRIPTOR.services_by_name["Keeper"]
AROUND = pytest.mark.parametrize(
    "around",
    [[], [passing], [Seeing()], [Seeing(), passing]],
    ids=["bare", "ours", "foreign", "both"],
)
CONFIG = Config(server_name="zoo")
Act = Callable[[CallContext], Awaitable[Any]]

# What pymicro's own client says of itself.
OWN = "pymicro/0.3"
INFO = error_details_pb2.ErrorInfo(reason="NO_SUCH", domain="zoo")


def rich(code: int, text: str) -> tuple[tuple[str, bytes], ...]:
    status = status_pb2.Status(code=code, message=text)
    status.details.add().Pack(INFO)
    return ((DETAILS_KEY, status.SerializeToString()),)


@dataclass
class Rich(grpc.Status):
    """What grpcio-status makes."""

    code: Any
    details: str
    trailing_metadata: Any


async def raises(context: CallContext) -> None:
    raise NotFound("no such ant 🐜", error_details=[INFO], trailing_metadata=[("x-raised", "1")])


async def crashes(context: CallContext) -> None:
    raise ValueError("secret")


async def aborts(context: CallContext) -> None:
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you", rich(7, "not you"))


async def aborts_with_status(context: CallContext) -> None:
    await context.abort_with_status(Rich(grpc.StatusCode.FAILED_PRECONDITION, "closed", rich(9, "closed")))


async def sets(context: CallContext) -> None:
    context.set_code(grpc.StatusCode.ALREADY_EXISTS)
    context.set_details("an ant like that")
    context.set_trailing_metadata(rich(6, "an ant like that"))


async def sets_backwards_and_by_number(context: CallContext) -> None:
    context.set_details("an ant like that")
    context.set_code(6)  # type: ignore[arg-type]


async def sets_and_crashes(context: CallContext) -> None:
    context.set_code(grpc.StatusCode.ABORTED)
    context.set_details("in between")
    raise ValueError("secret")


CASES: list[tuple[Act, grpc.StatusCode, int, str, str]] = [
    (raises, grpc.StatusCode.NOT_FOUND, 404, "Not Found", "no such ant 🐜"),
    (crashes, grpc.StatusCode.INTERNAL, 500, "Internal Server Error", r"internal error, id [0-9a-f]{8}"),
    (aborts, grpc.StatusCode.PERMISSION_DENIED, 403, "Forbidden", "not you"),
    (aborts_with_status, grpc.StatusCode.FAILED_PRECONDITION, 412, "Precondition Failed", "closed"),
    (sets, grpc.StatusCode.ALREADY_EXISTS, 409, "Conflict", "an ant like that"),
    (sets_backwards_and_by_number, grpc.StatusCode.ALREADY_EXISTS, 409, "Conflict", "an ant like that"),
    (sets_and_crashes, grpc.StatusCode.ABORTED, 409, "Conflict", "in between"),
]
ERRORS = pytest.mark.parametrize(
    ("act", "code", "http", "status", "detail"),
    CASES,
    ids=[kind[0].__name__ for kind in CASES],
)


@AROUND
@ERRORS
async def test_a_handlers_error_is_go_micros_json_over_all_shapes_and_codecs(
    act: Act, code: grpc.StatusCode, http: int, status: str, detail: str, around: list[Any]
) -> None:
    async with serving(all_shapes(act), config=CONFIG, interceptors=around) as running:
        for content_type in (PROTOBUF, JSON):
            for name in NAMES:
                failure = await GoCaller(running, content_type).failure(name)
                assert failure.code is code
                found = failure.json
                assert re.fullmatch(detail, found.pop("detail"))
                assert found == {"id": "zoo", "code": http, "status": status}
                assert failure.trailers.get("x-raised") == ("1" if act is raises else None)
        await eventually(lambda: running.server.in_progress == 0, "the calls are over")


@AROUND
@ERRORS
async def test_everybody_else_gets_plain_text_and_rich_details(
    act: Act, code: grpc.StatusCode, http: int, status: str, detail: str, around: list[Any]
) -> None:
    """Ordinary callers, and pymicro's own client, which tells its service's name like go-micro's."""
    async with (
        serving(all_shapes(act), config=CONFIG, interceptors=around) as running,
        running.called_by(OWN) as channel,
    ):
        named = (("micro-from-service", "shop"), ("timeout", "1"))
        ordinary = (("timeout", "1"), ("x-request-id", "2"))
        for chosen, metadata in ((running.channel, ordinary), (channel, named)):
            for name in NAMES:
                error = await Running(running.server, chosen, 0).failure(name, metadata=metadata)
                assert error.code() is code
                assert re.fullmatch(detail, error.details() or "")
                details = DETAILS_KEY in dict(tuple(error.trailing_metadata() or ()))
                assert details is (act in (raises, aborts, aborts_with_status, sets))


async def test_our_own_client_gets_json_of_messages_if_it_asks_and_plain_errors() -> None:
    async with (
        serving(all_shapes(raises), config=CONFIG) as running,
        running.called_by(OWN) as channel,
    ):
        caller = GoCaller(Running(running.server, channel, 0), JSON)
        failure = await caller.failure("Import", b'{"name": "ant"}')
        assert (failure.code, failure.text) == (grpc.StatusCode.NOT_FOUND, "no such ant 🐜")
        failure = await caller.failure("Import", b"no")
        assert failure.code is grpc.StatusCode.INTERNAL
        assert failure.text.startswith("the request, line 1, column 1: this is no JSON")


@pytest.mark.parametrize(
    "metadata",
    [(("micro-from-service", ""),), (("micro-from-service", "x"),), (("x-content-type", PROTOBUF),)],
    ids=["nameless", "named", "codec"],
)
async def test_either_header_tells_of_go_micro(metadata: Any) -> None:
    async with serving(all_shapes(raises), config=CONFIG) as running:
        failure = await GoCaller(running, metadata=metadata).failure("Import")
        assert failure.json["code"] == 404


@AROUND
async def test_partial_services_and_unknown_methods(around: list[Any]) -> None:
    class Partial(zoo_pb2_grpc.KeeperServicer):  # type: ignore[misc]
        async def Import(self, request: Any, context: Any) -> Any:
            return request

    async with serving(Partial(), config=CONFIG, interceptors=around) as running:
        for name in NAMES[1:]:
            failure = await GoCaller(running).failure(name, early=True)
            assert failure.code is grpc.StatusCode.UNIMPLEMENTED
            assert failure.json["code"] == 501
            assert "this server does not implement it" in failure.json["detail"]
        failure = await GoCaller(running).failure("Import", path="/zoo.Keeper/Imort")
        assert failure.json["detail"].endswith(
            "pymicro.tests.zoo.Keeper has Import, Watch, Count, Talk; did you mean Import?"
        )
        failure = await GoCaller(running).failure("Import", path="/zoo.Other/Import")
        assert failure.json["detail"].startswith("/zoo.Other/Import is not served here: this server has ")
        assert dict([FROM_PEER, NOT_STARTED]).items() <= failure.trailers.items()


@AROUND
async def test_refused_calls_say_so_in_json_and_keep_the_proof_that_they_have_not_run(
    around: list[Any],
) -> None:
    waiting = Waiting()
    async with full(waiting, interceptors=around) as running:
        for name in NAMES:
            failure = await GoCaller(running).failure(name, early=True)
            assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert failure.json["code"] == 429
            assert "max_concurrent_calls" in failure.json["detail"]
            assert failure.trailers == dict([FROM_PEER, NOT_STARTED])
        waiting.go.set()
    assert waiting.ran == ["Import"]


class Guard(grpc.aio.ServerInterceptor):
    """Refuses everybody, in one of the ways in which a user's own may."""

    def __init__(self, way: str) -> None:
        self.way = way

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        async def refuse(request: Any, context: Any) -> Any:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

        async def refuse_by_yielding(request: Any, context: Any) -> AsyncIterator[Any]:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
            yield

        def refuse_in_a_thread(request: Any, context: Any) -> Any:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

        def set_in_a_thread(request: Any, context: Any) -> Any:
            context.set_code(grpc.StatusCode.UNAUTHENTICATED)
            context.set_details("who are you?")
            return b""

        return {
            "coroutine": grpc.unary_unary_rpc_method_handler(refuse),
            "generator": grpc.stream_stream_rpc_method_handler(refuse_by_yielding),
            "thread": grpc.unary_unary_rpc_method_handler(refuse_in_a_thread),
            "thread, set": grpc.unary_unary_rpc_method_handler(set_in_a_thread),
        }[self.way]


@pytest.mark.parametrize("way", ["coroutine", "generator", "thread", "thread, set"])
async def test_errors_of_a_users_own_grpc_interceptors_are_translated_too(way: str) -> None:
    async with serving(all_shapes(raises), config=CONFIG, interceptors=[Guard(way)]) as running:
        failure = await GoCaller(running).failure("Import")
        assert failure.code is grpc.StatusCode.UNAUTHENTICATED
        assert failure.json == {"id": "zoo", "code": 401, "detail": "who are you?", "status": "Unauthorized"}
        error = await running.failure("Import")
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAUTHENTICATED, "who are you?")


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with contextlib.closing(Telemetry()) as made:
        yield made


async def test_opentelemetry_records_the_plain_text(telemetry: Telemetry) -> None:
    async with serving(all_shapes(crashes), config=CONFIG, interceptors=[telemetry.interceptor]) as running:
        for name in NAMES:
            detail = (await GoCaller(running).failure(name)).json["detail"]
            (span,) = await telemetry.spans(1)
            assert (span.attributes or {})["rpc.grpc.status_code"] == 13
            assert (span.status.description or "").endswith(f":{detail}")


@pytest.mark.parametrize(
    "detail",
    ["x" * 9000, '"\\' * 4000, "\n%\x00" * 2000, "🐜" * 3000, "\ud800" * 6000, "x" * 4060, "ä" * 600],
    ids=["ascii", "quotes", "controls", "ants", "surrogates", "just-not", "fits"],
)
async def test_a_long_text_is_cut_and_the_json_stays_whole(detail: str) -> None:
    async def act(context: CallContext) -> None:
        raise NotFound(detail)

    async with serving(all_shapes(act), config=CONFIG) as running:
        failure = await GoCaller(running).failure("Import")
        assert encoded_size(failure.text) <= 4 << 10
        found = failure.json["detail"]
        if detail[0] == "ä":
            assert found == detail
        else:
            sent = detail.replace("\ud800", "?")
            assert found.endswith("...")
            assert sent.startswith(found[:-3])
            assert encoded_size(failure.text) > (4 << 10) - 24


async def test_the_methods_trailers_stay() -> None:
    class Idempotent:
        @handler
        @idempotent
        async def import_(self, request: pb.Animal, context: CallContext) -> pb.Animal:
            context.set_trailing("x-set", "1")
            raise Unavailable("closed", error_details=[INFO])

    async with serving(Idempotent(), source=KEEPER, config=CONFIG) as running:
        failure = await GoCaller(running).failure("Import")
        assert failure.trailers == dict([("x-set", "1"), IDEMPOTENT, FROM_PEER])
        assert failure.json["code"] == 503


async def test_load_error_reads_what_goes_out() -> None:
    async with serving(all_shapes(raises), config=CONFIG) as running:
        found = load_error((await GoCaller(running).failure("Talk")).text)
        assert found is not None
        assert (found.id, found.detail) == ("zoo", "no such ant 🐜")
        assert found.status(grpc.StatusCode.NOT_FOUND) is grpc.StatusCode.NOT_FOUND
