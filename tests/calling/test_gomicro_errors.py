"""Errors of go-micro servers are the same exceptions, on every way by which a call tells its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

import pymicro
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import MemoryRegistry, RpcError, Service, handler
from pymicro.rpc.status import by_code

from .go_server import SHAPES, TABLE, go_servers, text_of


def method(client: Any, name: str = "Call", prefix: str = "orders", **channel: Any) -> Any:
    made = client.channel("orders", **channel)
    return getattr(made, SHAPES.get(name, "unary_unary"))(f"/{prefix}.Orders/{name}")


async def _stream(*requests: bytes) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


async def _await_end(client: Any, name: str, request: bytes, **channel: Any) -> Any:
    """Run a call of any shape to its end and give what it raised, and the call."""
    given = _stream(b"x", request) if SHAPES[name].startswith("stream") else request
    call = method(client, name, **channel)(given)
    try:
        if SHAPES[name].endswith("stream"):
            async for _ in call:
                pass
        else:
            await call
    except RpcError as exc:
        return exc, call
    raise AssertionError("the call succeeded")


async def _pass_on(call: Any, proceed: Any) -> Any:
    return await proceed()


@pytest.mark.parametrize("prefix", ["orders", "go.micro.srv.orders", "a"])
async def test_all_four_shapes_reach_a_go_server_whatever_the_prefix(prefix: str) -> None:
    async with go_servers() as (client, _):
        assert await method(client, "Call", prefix)(b"a") == b"a"
        assert [one async for one in method(client, "List", prefix)(b"a")] == [b"first", b"a"]
        assert await method(client, "Put", prefix)(_stream(b"a", b"b")) == b"b"
        assert [one async for one in method(client, "Chat", prefix)(_stream(b"a", b"b"))] == [b"a", b"b"]


@pytest.mark.parametrize("name", SHAPES)
async def test_each_code_of_its_table_is_that_exception_in_each_shape(name: str) -> None:
    async with go_servers(outlier_ejection="off") as (client, (server,)):
        for number, code in TABLE.items():
            error, call = await _await_end(client, name, f"{number} größer als 3".encode())
            assert type(error) is by_code(code)
            assert (error.code(), error.details()) == (code, "größer als 3")
            assert (error.micro_id, error.micro_code) == ("orders", number)
            assert (error.from_peer, error.node) == (True, server.node)
            assert error.callee == f"orders/orders.Orders/{name}"
            assert (await call.code(), await call.details()) == (code, "größer als 3")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (405, pymicro.Unimplemented),
        (429, pymicro.ResourceExhausted),
        (499, pymicro.Cancelled),
        (504, pymicro.DeadlineExceeded),
        (422, pymicro.Unknown),
        (10001, pymicro.Unknown),
    ],
)
async def test_numbers_that_a_go_server_sends_as_unknown_are_read_from_the_json(
    number: int, kind: type[RpcError]
) -> None:
    async with go_servers() as (client, _):
        error, call = await _await_end(client, "Call", f"{number} no".encode())
        assert type(error) is kind
        assert (error.details(), error.micro_code) == ("no", number)
        assert await call.code() is kind.status_code
        assert not call.cancelled()


async def test_a_plain_go_error_is_unknown_with_its_text() -> None:
    async with go_servers() as (client, _):
        error, call = await _await_end(client, "Call", b'plain {"sql": "no rows"}')
        assert type(error) is pymicro.Unknown
        assert error.details() == '{"sql": "no rows"}' == await call.details()
        assert (error.micro_id, error.micro_code, error.from_peer) == (None, None, None)


async def test_a_method_that_a_go_server_lacks_is_unimplemented() -> None:
    async with go_servers() as (client, _):
        with pytest.raises(pymicro.Unimplemented) as caught:
            await method(client, "Cancel")(b"")
        assert caught.value.details() == "unknown service Orders.Cancel"
        assert caught.value.micro_code is None


@pytest.mark.parametrize("interceptors", [(), (_pass_on,)], ids=["plain", "intercepted"])
async def test_an_error_inside_an_error_stays_text(interceptors: Any) -> None:
    async with go_servers() as (client, _):
        inner = text_of(404, "no such item", "items")
        error, call = await _await_end(client, "Call", f"500 {inner}".encode(), interceptors=interceptors)
        assert type(error) is pymicro.Internal
        assert error.details() == inner
        assert (await call.code(), await call.details()) == (grpc.StatusCode.INTERNAL, inner)


async def test_read_and_wait_for_connection_raise_it_too() -> None:
    async with go_servers() as (client, _):
        call = method(client, "List")(b"409 twice")
        assert await call.read() == b"first"
        with pytest.raises(pymicro.AlreadyExists, match="twice"):
            await call.read()
        with pytest.raises(pymicro.AlreadyExists):
            await call.wait_for_connection()
        assert await call.code() is grpc.StatusCode.ALREADY_EXISTS


class _Foreign(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def intercept_unary_unary(self, proceed: Any, details: Any, request: Any) -> Any:
        call = await proceed(details, request)
        self.seen.append((await call.code(), await call.details()))
        return call


@pytest.mark.parametrize("name", ["Call", "List"])
async def test_interceptors_see_the_exception_and_the_outer_call_agrees(name: str) -> None:
    seen = []

    async def ours(call: Any, proceed: Any) -> Any:
        try:
            return await proceed()
        except RpcError as exc:
            seen.append((exc.code(), exc.details(), exc.micro_code))
            raise

    foreign = _Foreign()
    async with go_servers() as (client, _):
        error, call = await _await_end(client, name, b"429 slowly", interceptors=[ours, foreign])
        assert type(error) is pymicro.ResourceExhausted
        assert seen == [(grpc.StatusCode.RESOURCE_EXHAUSTED, "slowly", 429)]
        assert (await call.code(), await call.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "slowly")
        assert foreign.seen == ([(grpc.StatusCode.RESOURCE_EXHAUSTED, "slowly")] if name == "Call" else [])


@pytest.mark.parametrize(
    ("request_", "ejected"),
    [
        (b"404 no", 0),
        (b"422 bad form", 0),
        (b"429 slowly", 0),
        (b"10001 own", 0),
        (b"503 later", 1),
        (b"599 own", 1),
        (b"plain oh", 1),
    ],
)
async def test_what_a_handler_refuses_by_a_number_is_no_failure_of_its_node(
    request_: bytes, ejected: int
) -> None:
    async with go_servers(3) as (client, _):
        for _ in range(40):
            await _await_end(client, "Call", request_)
        target = client.channel("orders").open()
        assert len(target.chooser.ejected) == ejected


async def test_only_unavailable_in_the_json_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="pymicro.client")
    async with go_servers(2, client_retries=1, outlier_ejection="off") as (client, servers):
        for request, attempts in ((b"503 later", 2), (b"404 no", 1), (b"500 oh", 1), (b"10001 own", 1)):
            before = sum(len(server.metadata) for server in servers)
            error, _ = await _await_end(client, "Call", request, idempotent=["Call"])
            assert sum(len(server.metadata) for server in servers) - before == attempts, request
            assert error.attempts == attempts
        # The log names the status that the caller sees.
        ends = [entry.getMessage() for entry in caplog.records if "Orders/Call on" in entry.getMessage()]
        assert [line.rpartition("status ")[2] for line in ends] == ["14", "14", "5", "13", "2"]


async def test_a_handler_that_lets_it_escape_answers_internal_and_may_pass_it_on() -> None:
    class Greeter:
        def __init__(self, orders: Any) -> None:
            self._orders = orders

        @handler
        async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
            try:
                await method(self._orders)(b"404 no such order")
            except pymicro.NotFound as exc:
                if request.name == "pass on":
                    raise pymicro.NotFound(exc.details() or "") from exc
                raise
            raise AssertionError("it succeeded")

    registry = MemoryRegistry()
    async with go_servers() as (orders, _), registry:
        service = Service("greeter", registry=registry)
        service.add(Greeter(orders), pb, partial=True)
        async with service:
            greet = rpc.GreeterStub(service.channel("greeter"))
            with pytest.raises(pymicro.NotFound, match="no such order") as passed:
                await greet.SayHello(pb.HelloRequest(name="pass on"))
            assert passed.value.micro_code is None
            with pytest.raises(pymicro.Internal, match="internal error, id") as escaped:
                await greet.SayHello(pb.HelloRequest())
            assert "no such order" not in str(escaped.value)


async def test_a_call_that_succeeds_is_asked_for_no_text() -> None:
    async with go_servers() as (client, _):
        call = method(client)(b'{"id":"x","code":404,"detail":"y","status":""}')
        assert (await call).startswith(b"{")
        assert (await call.code(), await call.details()) == (grpc.StatusCode.OK, "")
        answered = asyncio.Event()
        call.add_done_callback(lambda _: answered.set())
        assert answered.is_set()
