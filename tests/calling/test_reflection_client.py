from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as pb

from pymicro import PymicroError
from pymicro.calling.peers.reflection import (
    NoReflection,
    NotReflected,
    ReflectionClient,
    ReflectionError,
)
from pymicro.rpc.schema import Schema
from pymicro.rpc.status import DeadlineExceeded, Unauthenticated, Unavailable
from tests.shop import SERVICES, V1, V1ALPHA, ShopServer, shop_files

Answer = Any


class OddServer:
    """A server whose reflection is a function from request to answer."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._server = grpc.aio.server()

    async def __aenter__(self) -> grpc.aio.Channel:
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=pb.ServerReflectionRequest.FromString,
            response_serializer=pb.ServerReflectionResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(V1, {"ServerReflectionInfo": handler}),)
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        return self._channel

    async def __aexit__(self, *exc: object) -> None:
        await self._channel.close()
        await self._server.stop(0)

    async def _serve(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            answer = await self._answer(request, context)
            if answer is not None:
                yield answer


@pytest.mark.parametrize(("offered", "asked"), [((V1,), V1), ((V1ALPHA,), V1ALPHA), ((V1, V1ALPHA), V1)])
async def test_the_newest_version_the_server_has_is_asked(offered: tuple[str, ...], asked: str) -> None:
    async with ShopServer(offered) as server, grpc.aio.insecure_channel(server.address) as channel:
        reflection = ReflectionClient(channel)
        assert await reflection.list_services() == list(SERVICES)
        assert await reflection.list_services() == list(SERVICES)
        assert server.asked == [asked, asked]


async def test_the_files_of_a_service_come_with_all_they_import() -> None:
    async with ShopServer() as server, grpc.aio.insecure_channel(server.address) as channel:
        schema = Schema()
        schema.add(await ReflectionClient(channel).files_containing("shop.v1.Shop", "shop.v1.Gift"))
        assert schema.find_method("Shop.Buy").path == "/shop.v1.Shop/Buy"
        assert schema.has_message("shop.v1.Money")
        assert schema.has_message("shop.v1.Gift")


async def test_imports_that_a_server_does_not_send_along_are_asked_for() -> None:
    files = {file.name: file for file in shop_files()}
    asked = []

    async def one_at_a_time(request: Any, context: Any) -> Any:
        name = request.file_by_filename or "shop/v1/shop.proto"
        asked.append(name)
        if name.startswith("google/"):
            return pb.ServerReflectionResponse(error_response=pb.ErrorResponse(error_code=5))
        sent = [files[name].SerializeToString()]
        return pb.ServerReflectionResponse(file_descriptor_response={"file_descriptor_proto": sent})

    async with OddServer(one_at_a_time) as channel:
        found = await ReflectionClient(channel).files_containing("shop.v1.Shop")
    assert sorted(file.name for file in found) == ["shop/v1/money.proto", "shop/v1/shop.proto"]
    assert sorted(asked) == sorted(set(asked))  # nothing is asked for twice
    Schema().add(found)  # google's own are installed here


async def test_a_symbol_the_server_does_not_know_is_named() -> None:
    async with ShopServer() as server, grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(NotReflected, match=r"does not know shop.v1.Nothing"):
            await ReflectionClient(channel).files_containing("shop.v1.Nothing")


async def test_a_server_without_reflection_is_told_apart() -> None:
    async with ShopServer(()) as server, grpc.aio.insecure_channel(server.address) as channel:
        for _ in range(20):  # the status races with the request
            with pytest.raises(NoReflection, match="neither v1 nor v1alpha"):
                await ReflectionClient(channel).list_services()


async def test_any_other_status_stays_what_it_is() -> None:
    async def refuse(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

    async with OddServer(refuse) as channel:
        with pytest.raises(Unauthenticated, match=r"who are you\?") as caught:
            await ReflectionClient(channel).list_services()
        assert caught.value.callee == f"/{V1}/ServerReflectionInfo"

    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(Unavailable):
            await ReflectionClient(channel).list_services()


async def test_a_server_that_does_not_answer_is_given_up() -> None:
    hold = asyncio.Event()

    async def wait(request: Any, context: Any) -> Any:
        await hold.wait()

    async with OddServer(wait) as channel:
        with pytest.raises(DeadlineExceeded):
            await ReflectionClient(channel, timeout=0.1).list_services()
        hold.set()


async def test_metadata_goes_along() -> None:
    seen = []

    async def look(request: Any, context: Any) -> Any:
        seen.extend(context.invocation_metadata())
        return pb.ServerReflectionResponse(list_services_response={})

    async with OddServer(look) as channel:
        assert await ReflectionClient(channel, metadata=[("authorization", "me")]).list_services() == []
    assert ("authorization", "me") in seen


async def nothing(request: Any, context: Any) -> Any:
    return None


async def refused(request: Any, context: Any) -> Any:
    error = pb.ErrorResponse(error_code=7, error_message="not for you")
    return pb.ServerReflectionResponse(error_response=error)


async def rubbish(request: Any, context: Any) -> Any:
    return pb.ServerReflectionResponse(file_descriptor_response={"file_descriptor_proto": [b"\xff"]})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (nothing, "ended the reflection stream without an answer"),
        (refused, r"refuses a.B: not for you \(status 7\)"),
        (rubbish, "sent a proto file that cannot be read"),
    ],
)
async def test_answers_that_are_none_are_errors_that_say_so(answer: Answer, words: str) -> None:
    async with OddServer(answer) as channel:
        with pytest.raises(ReflectionError, match=words) as caught:
            await ReflectionClient(channel).files_containing("a.B")
        assert isinstance(caught.value, PymicroError)


async def test_imports_in_a_circle_come_to_an_end() -> None:
    async def circle(request: Any, context: Any) -> Any:
        files = [FileDescriptorProto(name=name, dependency=[other]) for name, other in ("ab", "ba")]
        sent = [file.SerializeToString() for file in files if request.file_by_filename in ("", file.name)]
        return pb.ServerReflectionResponse(file_descriptor_response={"file_descriptor_proto": sent[:1]})

    async with OddServer(circle) as channel:
        assert len(await ReflectionClient(channel).files_containing("x")) == 2


async def test_a_server_sees_the_end_of_the_stream_and_no_cancelled_call() -> None:
    cancelled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def answer(request: Any, context: Any) -> Any:
        context.add_done_callback(lambda done: cancelled.set_result(done.cancelled()))
        return pb.ServerReflectionResponse(list_services_response={})

    async with OddServer(answer) as channel:
        await ReflectionClient(channel).list_services()
        assert await asyncio.wait_for(cancelled, 10) is False
