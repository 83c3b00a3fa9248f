"""Paths as go-micro's clients make them: a registry name in front of the service, and streams left open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pymicro.serving.call.context import CallContext
from pymicro.serving.handlers import handler
from tests.protos import zoo_pb2 as pb
from tests.serving import serving as serving_module
from tests.serving.gomicro_caller import JSON, NAMES, GoCaller, headers
from tests.serving.serving import ZOO, serving
from tests.serving.test_dispatch import Keeper
from tests.serving.test_foreign_interceptors import Seeing, Writer, passing

KEEPER = pb.DESCRIPTOR.services_by_name["Keeper"]


@pytest.mark.parametrize("prefix", ["go.micro.srv.zoo.", "zoo.", "", "x-y_z.Greeter.", "pymicro.tests.zoo."])
async def test_the_last_segment_before_the_method_finds_the_service(prefix: str) -> None:
    paths: list[str] = []

    async def noting(call: CallContext, proceed: Any) -> Any:
        paths.append(call.method)
        return await proceed()

    async with serving(Keeper(), interceptors=[noting]) as running:
        caller = GoCaller(running, prefix=prefix)
        for name in NAMES:
            assert await caller.ask(name)
        # So a caller without any header, too.
        assert await running.channel.unary_unary(f"/{prefix}Keeper/Import")(b"", timeout=20) == b""
    assert paths == [f"{ZOO}/{name}" for name in (*NAMES, "Import")]


@pytest.mark.parametrize(
    "path",
    [
        "/a/b.Keeper/Import",
        "/Keeper/x/Import",
        "/Keeper./Import",
        "/keeper/Import",
        "/Keeper/import",
        "Keeper",
    ],
)
async def test_what_only_looks_alike_is_not_served(path: str) -> None:
    async with serving(Keeper()) as running:
        failure = await GoCaller(running).failure("Import", path=path)
        # nghttp2 ends such a stream itself: a request whose path has no slash is malformed (RFC 9113, 8.3.1).
        malformed = serving_module.TRANSPORT == "fast" and not path.startswith("/")
        expected = grpc.StatusCode.INTERNAL if malformed else grpc.StatusCode.UNIMPLEMENTED
        assert failure.code is expected


async def test_health_and_reflection_are_called_by_their_whole_name() -> None:
    async with serving(Keeper()) as running:
        for path in ("/zoo.Health/Check", "/zoo.ServerReflection/ServerReflectionInfo"):
            failure = await GoCaller(running).failure("Import", path=path)
            assert failure.code is grpc.StatusCode.UNIMPLEMENTED


async def test_the_method_is_named_where_only_the_service_is_known() -> None:
    async with serving(Keeper()) as running:
        failure = await GoCaller(running).failure("Import", path="/go.micro.srv.zoo.Keeper/Wach")
        assert failure.json["detail"] == (
            "/go.micro.srv.zoo.Keeper/Wach is not served here: "
            "pymicro.tests.zoo.Keeper has Import, Watch, Count, Talk; did you mean Watch?"
        )


def other_keeper() -> Any:
    """`zoo.v2.Keeper`, with Import and a method of its own."""
    file = descriptor_pb2.FileDescriptorProto(name="zoo_v2.proto", package="zoo.v2", syntax="proto3")
    file.message_type.add(name="Empty")
    service = file.service.add(name="Keeper")
    for name in ("Import", "Feed"):
        service.method.add(name=name, input_type=".zoo.v2.Empty", output_type=".zoo.v2.Empty")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindServiceByName("zoo.v2.Keeper")


async def test_an_ambiguous_path_is_an_error_that_names_both() -> None:
    source = other_keeper()
    empty = message_factory.GetMessageClass(source.methods_by_name["Import"].input_type)

    class Second:
        @handler
        async def import_(self, request: Any) -> Any:
            return empty()

        @handler
        async def feed(self, request: Any) -> Any:
            return empty()

    async with serving(Keeper(), add=lambda server: server.add(Second(), source)) as running:
        failure = await GoCaller(running).failure("Import")
        assert failure.code is grpc.StatusCode.UNIMPLEMENTED
        assert failure.json["detail"] == (
            "/go.micro.srv.zoo.Keeper/Import may be each of /pymicro.tests.zoo.Keeper/Import, "
            "/zoo.v2.Keeper/Import: call the one that is meant by its full path"
        )
        assert failure.trailers["pymicro-not-started"] == "1"
        # Exact paths come first, and what only one of them has is not ambiguous.
        for path in ("/zoo.v2.Keeper/Import", "/zoo.Keeper/Feed"):
            assert await GoCaller(running).raw("Import", b"", path=path) == [b""]
        assert await GoCaller(running, prefix="pymicro.tests.zoo.").ask("Import") == ["ANT"]
        assert await GoCaller(running).ask("Watch") == ["ant0", "ant1", "ant2"]


async def test_other_peoples_generic_handlers_are_asked_before_paths_are_bent() -> None:
    class Proxy(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            if not handler_call_details.method.startswith("/elsewhere."):
                return None

            async def proxied(request: bytes, context: Any) -> bytes:
                return b"elsewhere"

            return grpc.unary_unary_rpc_method_handler(proxied)

    async with serving(Keeper(), add=lambda server: server.add_generic_rpc_handlers((Proxy(),))) as running:
        assert await GoCaller(running).raw("Import", b"", path="/elsewhere.Keeper/Import") == [b"elsewhere"]
        assert await GoCaller(running).ask("Import") == ["ANT"]


@pytest.mark.parametrize(
    "around",
    [[], [passing], [Seeing()], [Seeing(), passing]],
    ids=["bare", "ours", "foreign", "both"],
)
@pytest.mark.parametrize("keeper", [Keeper, Writer], ids=["handler", "servicer"])
async def test_server_streaming_starts_with_the_first_message(keeper: Any, around: list[Any]) -> None:
    """Generated Go stubs leave the stream of requests open: this stays so until the answer has ended."""
    async with serving(keeper(), interceptors=around) as running:
        for metadata in (headers(), None):
            call = running.channel.stream_stream("/zoo.Keeper/Watch")(metadata=metadata, timeout=20)
            await call.write(pb.Query(name="ant").SerializeToString())
            answers = []
            while (answer := await call.read()) is not grpc.aio.EOF:
                answers.append(pb.Animal.FromString(answer).name.rstrip("!"))
            assert answers == ["ant0", "ant1", "ant2"]
            assert await call.code() is grpc.StatusCode.OK


async def test_a_handler_sees_go_micros_metadata_in_lower_case_and_where_it_came_in() -> None:
    seen: dict[str, Any] = {}

    class Looking:
        @handler
        async def watch(self, request: pb.Query, context: CallContext) -> AsyncIterator[pb.Animal]:
            seen.update(tuple(context.metadata))
            seen["peer"] = context.peer()
            yield pb.Animal()

    async with serving(Looking(), source=KEEPER) as running:
        caller = GoCaller(running, JSON, metadata=(*headers(JSON), ("x-user", "7")))
        assert await caller.ask("Watch") == [""]
    assert seen["micro-from-service"] == "go.micro.srv.caller"
    assert seen["x-user"] == "7"
    assert seen["peer"].startswith("ipv4:127.0.0.1:")
