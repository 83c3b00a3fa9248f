"""Messages in the form that a caller's `x-content-type` asks for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from pymicro.serving.call.context import CallContext
from pymicro.serving.handlers import handler
from pymicro.settings.config import Config
from tests.protos import strict_pb2, zoo_pb2_grpc
from tests.protos import zoo_pb2 as pb
from tests.serving.gomicro_caller import JSON, NAMES, GoCaller, headers
from tests.serving.serving import ZOO, eventually, serving
from tests.serving.test_dispatch import Keeper
from tests.serving.test_foreign_interceptors import Seeing, passing

KEEPER = pb.DESCRIPTOR.services_by_name["Keeper"]
ANSWERS = {"Import": ["ANT"], "Watch": ["ant0", "ant1", "ant2"], "Count": ["1"], "Talk": ["ANT"]}
PROTOBUFS = (
    "application/proto",
    "application/protobuf",
    "application/octet-stream",
    "application/grpc",
    "application/grpc+proto",
    "application/grpc+bytes",
)
JSONS = (JSON, "application/grpc+json", "application/json; charset=utf-8", "Application/JSON")


@pytest.mark.parametrize("content_type", [*PROTOBUFS, *JSONS])
async def test_all_four_shapes_answer_in_the_codec_of_the_request(content_type: str) -> None:
    async with serving(Keeper()) as running:
        caller = GoCaller(running, content_type)
        for name in NAMES:
            assert await caller.ask(name) == ANSWERS[name]
        assert await caller.ask("Talk", "a", "b") == ["A", "B"]


@pytest.mark.parametrize("content_type", ["application/grpc+proto", JSON])
@pytest.mark.parametrize("with_ours", [False, True], ids=["alone", "with-ours"])
async def test_interceptors_see_messages_whatever_travels(content_type: str, with_ours: bool) -> None:
    seen: list[Any] = []

    async def looking(call: CallContext, proceed: Any) -> Any:
        async def look(message: Any) -> Any:
            seen.append(type(message))
            return message

        call.map_requests(look)
        call.map_responses(look)
        return await proceed()

    foreign = Seeing()
    around: list[Any] = [foreign, looking] if with_ours else [foreign]
    async with serving(Keeper(), interceptors=around) as running:
        caller = GoCaller(running, content_type)
        assert await caller.ask("Import") == ["ANT"]
        assert await caller.ask("Watch") == ["ant0!", "ant1!", "ant2!"]
        assert await caller.ask("Count") == ["1"]
        assert await caller.ask("Talk", "a", "b") == ["A!", "B!"]
    assert foreign.seen == ["ant0", "ant1", "ant2", "A", "B"]
    assert set(seen) == ({pb.Animal, pb.Query, pb.Tally} if with_ours else set())


class Echo:
    @handler
    async def import_(self, request: pb.Animal) -> pb.Animal:
        return request


async def test_json_is_what_gos_jsonpb_reads_and_writes() -> None:
    async with serving(Echo(), source=KEEPER) as running:
        caller = GoCaller(running, JSON)
        sent = {"name": "ä", "legs": 6, "young": [{}], "weights": {"a": "9007199254740993"}, "mood": "ANGRY"}
        (answer,) = await caller.raw("Import", json.dumps(sent).encode())
        assert json.loads(answer) == sent
        assert answer.decode().startswith('{"name":"ä",')
        (answer,) = await caller.raw("Import", b'{"weights": {"a": 7}, "mood": 1, "legs": null, "names": []}')
        assert json.loads(answer) == {"weights": {"a": "7"}, "mood": "ANGRY"}


async def test_field_names_are_read_in_both_spellings_and_written_in_lower_camel_case() -> None:
    class Strict:
        @handler
        async def fill(self, request: strict_pb2.Form) -> strict_pb2.Form:
            return request

    async with serving(Strict(), source=strict_pb2) as running:
        path = "/x.Strictness/Fill"
        for spelled in (b'{"secret_field": "a"}', b'{"secretField": "a"}'):
            call = running.channel.unary_unary(path)(spelled, metadata=headers(JSON), timeout=20)
            assert await call == b'{"secretField":"a"}'


async def test_null_is_an_empty_message_as_the_api_gateway_sends_it() -> None:
    async with serving(Echo(), source=KEEPER) as running:
        assert await GoCaller(running, JSON).raw("Import", b"null\n") == [b"{}"]


async def refused(request: bytes, code: grpc.StatusCode, http: int, words: str) -> None:
    """Whether that becomes of such a request, on all shapes that take animals."""
    async with serving(Keeper()) as running:
        for name in ("Import", "Count", "Talk"):
            failure = await GoCaller(running, JSON).failure(name, request, early=True)
            assert failure.code is code
            assert failure.json["code"] == http
            assert words in failure.json["detail"]
        await eventually(lambda: running.server.in_progress == 0, "the calls are over")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (b'{\n  "name": ant}', "the request, line 2, column 11: this is no JSON"),
        (b"", "the request, line 1, column 1: this is no JSON"),
        (pb.Animal(name="ant").SerializeToString(), "the request, line 2, column 1: this is no JSON"),
        (b'{"name": "\xff"}', "the request is no UTF-8 at byte 10, so no JSON"),
    ],
    ids=["syntax", "nothing", "protobuf", "latin-1"],
)
async def test_what_is_no_json_is_internal_so_that_go_micros_client_tries_again(
    request_: bytes, words: str
) -> None:
    await refused(request_, grpc.StatusCode.INTERNAL, 500, words)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (b"[]", "expected an object (pymicro.tests.zoo.Animal), found []"),
        (b'{"nmae": "ant"}', "no field 'nmae'"),
        (b'{"young": [{"legs": "six"}]}', 'young[0].legs: expected a whole number, found "six"'),
        # Python 3.13 reads 10,000 levels before it gives up, and finds that there is no end.
        (b'{"young":[' * 50_000, "nested too deeply"),
        (b'{"young":[' * 400 + b"{}" + b"]}" * 400, "the request does not fit: "),
    ],
    ids=["list", "unknown-field", "wrong-type", "deep", "deep-and-whole"],
)
async def test_json_that_does_not_fit_is_the_callers_fault(request_: bytes, words: str) -> None:
    await refused(request_, grpc.StatusCode.INVALID_ARGUMENT, 400, words)


async def test_bytes_that_are_no_protobuf_are_internal_as_in_grpc() -> None:
    async with serving(Keeper()) as running:
        for name in NAMES:
            failure = await GoCaller(running).failure(name, b"\xff\xff", early=True)
            assert failure.code is grpc.StatusCode.INTERNAL
            assert "does not parse as pymicro.tests.zoo." in failure.json["detail"]


@pytest.mark.parametrize("foreign", [[], [Seeing()]], ids=["bare", "foreign"])
async def test_an_unknown_content_type_is_refused_with_those_there_are(foreign: list[Any]) -> None:
    async with serving(Keeper(), interceptors=foreign) as running:
        for name in ("Import", "Count", "Talk"):
            failure = await GoCaller(running, "application/xml").failure(name, early=True)
            assert failure.code is grpc.StatusCode.UNIMPLEMENTED
            assert failure.json["detail"].startswith(
                "x-content-type 'application/xml' is not read here, but "
            )
            assert "application/grpc+proto, " in failure.json["detail"]
            assert failure.trailers["pymicro-not-started"] == "1"


@pytest.mark.parametrize("around", [[], [passing], [Seeing()]], ids=["bare", "ours", "foreign"])
async def test_the_size_limit_is_about_the_bytes_that_travel(around: list[Any]) -> None:
    answer = pb.Animal(weights={str(n): n for n in range(100)})
    size = answer.ByteSize()

    class Many:
        @handler
        async def import_(self, request: pb.Animal) -> pb.Animal:
            return answer

    config = Config(max_sent_message_size=size)
    async with serving(Many(), source=KEEPER, config=config, interceptors=around) as running:
        assert len((await GoCaller(running).raw("Import", b""))[0]) == size
        failure = await GoCaller(running, JSON).failure("Import")
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failure.json["code"] == 429
        assert f"max_sent_message_size of {size}" in failure.json["detail"]


async def test_servicers_and_threads_speak_json_too() -> None:
    class Old(zoo_pb2_grpc.KeeperServicer):  # type: ignore[misc]
        def Import(self, request: Any, context: Any) -> Any:
            return pb.Animal(name=request.name * 2)

        async def Watch(self, request: Any, context: Any) -> None:
            await context.write(pb.Animal(name="one"))
            await context.write(pb.Animal(name="two"))

        async def Talk(self, requests: Any, context: Any) -> None:
            while (request := await context.read()) is not grpc.aio.EOF:
                await context.write(request)

    async with serving(Old()) as running:
        caller = GoCaller(running, JSON)
        assert await caller.ask("Import", "ab") == ["abab"]
        assert await caller.ask("Watch") == ["one", "two"]
        assert await caller.ask("Talk", "a", "b") == ["a", "b"]


class Dynamic(grpc.GenericRpcHandler):
    """Serves what nobody knows the types of."""

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method != "/some.Thing/Do":
            return None

        async def do(request: bytes, context: Any) -> bytes:
            if request == b"fail":
                await context.abort(grpc.StatusCode.ABORTED, "no")
            return request + b"!"

        return grpc.unary_unary_rpc_method_handler(do)


async def test_a_method_of_unknown_types_takes_protobuf_and_says_so_of_json() -> None:
    def add(server: Any) -> None:
        server.add_generic_rpc_handlers((Dynamic(),))

    async with serving(Keeper(), add=add) as running:
        path = "/some.Thing/Do"
        assert await GoCaller(running).raw("Import", b"a", path=path) == [b"a!"]
        assert (await GoCaller(running).failure("Import", b"fail", path=path)).json["code"] == 409
        failure = await GoCaller(running, JSON).failure("Import", b"{}", path=path)
        assert failure.code is grpc.StatusCode.UNIMPLEMENTED
        assert failure.json["detail"] == f"{path} takes no JSON: its messages are not known here"


async def test_a_stream_is_read_as_it_comes() -> None:
    class Answering:
        @handler
        async def talk(self, requests: AsyncIterator[pb.Animal]) -> AsyncIterator[pb.Animal]:
            async for request in requests:
                yield pb.Animal(name=request.name, legs=4)

    async with serving(Answering(), source=KEEPER) as running:
        call = running.channel.stream_stream("/zoo.Keeper/Talk")(metadata=headers(JSON), timeout=20)
        for name in ("a", "b"):
            await call.write(json.dumps({"name": name}).encode())
            assert json.loads(await call.read()) == {"name": name, "legs": 4}
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_the_codec_alone_does_not_need_a_go_micro_path_or_any_other_header() -> None:
    async with serving(Keeper()) as running:
        call = running.channel.unary_unary(f"{ZOO}/Import")
        assert (
            await call(b'{"name":"a"}', metadata=(("x-content-type", JSON),), timeout=20) == b'{"name":"A"}'
        )
        assert await running.ask("Import", "a") == ["A"]
