"""Calls that are made in the wrong place, or not awaited, are errors that say what to write instead."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import pymicro
from pymicro.testing import running

from .backends import connected, count_down, greeter, hello, stub


async def _passing(call: Any, proceed: Any) -> Any:
    return await proceed()


def _calls(client: Any) -> dict[str, Callable[[], Any]]:
    used = stub(client)
    return {
        "unary_unary": lambda: used.SayHello(hello()),
        "unary_stream": lambda: used.CountDown(count_down(2)),
        "stream_unary": lambda: used.GreetAll(),
        "stream_stream": lambda: used.Chat(),
    }


NO_LOOP = "a call to greeter needs the event loop, and none runs in this thread: make the function"
OTHER_LOOP = (
    "a call to greeter was made in another event loop than its client's: open a `Client` in this loop"
)
INTERCEPTORS = pytest.mark.parametrize("interceptors", [[], [_passing]], ids=["bare", "intercepted"])
SHAPES = pytest.mark.parametrize("shape", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])


@SHAPES
@INTERCEPTORS
@pytest.mark.parametrize("used", [False, True], ids=["first call", "later call"])
async def test_a_call_outside_the_clients_loop_says_what_to_write(
    shape: str, interceptors: list[Any], used: bool
) -> None:
    async with greeter(interceptors=interceptors) as (client, _, _):
        if used:
            await connected(client, 1)
            await stub(client).SayHello(hello())
        call = _calls(client)[shape]

        async def elsewhere() -> None:
            call()

        with pytest.raises(pymicro.PymicroError, match=NO_LOOP):
            await asyncio.to_thread(call)
        with pytest.raises(pymicro.PymicroError, match=OTHER_LOOP):
            await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
        assert (await stub(client).SayHello(hello())).message == "Hello Ada"


async def test_what_the_error_says_to_write_works() -> None:
    async with greeter() as (client, _, _):
        loop = asyncio.get_running_loop()

        async def ask() -> Any:
            return await stub(client).SayHello(hello())

        def work() -> Any:
            return asyncio.run_coroutine_threadsafe(ask(), loop).result(timeout=5)

        assert (await asyncio.to_thread(work)).message == "Hello Ada"


@pytest.mark.grpc_only(reason="a server of ours serves the call")
async def test_a_plain_handler_that_calls_over_its_services_channel_is_told_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from greeter.v1 import greeter_pb2_grpc as rpc

    class Asking(rpc.GreeterServicer):
        def SayHello(self, request: Any, context: Any) -> Any:
            return rpc.GreeterStub(service.channel("greeter")).SayHello(request)

    service = pymicro.Service("asking")
    rpc.add_GreeterServicer_to_server(Asking(), service)
    async with running(service) as services:
        with pytest.raises(pymicro.RpcError):
            await rpc.GreeterStub(services.channel("asking")).SayHello(hello(), timeout=5)
    assert NO_LOOP in caplog.text


@SHAPES
@INTERCEPTORS
async def test_an_attribute_of_the_reply_asked_of_the_call_says_what_was_forgotten(
    shape: str, interceptors: list[Any]
) -> None:
    async with greeter(interceptors=interceptors) as (client, _, _):
        await connected(client, 1)
        call = _calls(client)[shape]()
        said = "read the responses first" if shape.endswith("stream") else "await the call first"
        with pytest.raises(AttributeError, match=rf"has no attribute 'message': {said}, `.* stub\.\w+\(…\)`"):
            _ = call.message
        assert getattr(call, "message", None) is None
        for name in ("__deepcopy__", "_private"):
            with pytest.raises(AttributeError, match=f"has no attribute '{name}'$"):
                getattr(call, name)
        assert inspect.isawaitable(call) is shape.endswith("unary")
        assert "greeter" in repr(call)
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            pickle.dumps(call)
        assert copy.copy(call).node == call.node
        for thing in (client, client.channel("greeter"), pymicro.Service("copied"), stub(client).SayHello):
            for copied in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(
                    TypeError, match=f"a {type(thing).__name__} of pymicro's cannot be copied"
                ):
                    copied(thing)
        call.cancel()


async def test_a_call_object_that_is_not_made_yet_has_no_endless_attributes() -> None:
    from pymicro.calling.call.objects import UnaryUnaryCall

    with pytest.raises(AttributeError):
        _ = UnaryUnaryCall.__new__(UnaryUnaryCall).message  # as copy and pickle make one
