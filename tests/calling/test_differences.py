"""Each difference to grpc.aio that docs/differences.md names: the same code over a bare channel and ours."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import pymicro
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro.testing import running

from .backends import count_down, greeter, hello
from .flaky import flaky
from .test_call_state import OLD, odd

BARE, OURS = "grpc.aio", "pymicro"
OVER = pytest.mark.parametrize("over", [BARE, OURS])


@asynccontextmanager
async def channel(over: str) -> AsyncIterator[tuple[Any, Any]]:
    """A channel to one server, and the server."""
    async with greeter() as (client, _, (server,)):
        if over == OURS:
            yield client.channel("greeter"), server
        else:
            async with grpc.aio.insecure_channel(server.node.address) as bare:
                yield bare, server


@asynccontextmanager
async def odd_channel(over: str) -> AsyncIterator[Any]:
    """A channel to a server whose responses cannot be read."""
    async with odd() as client:
        ours = client.channel("greeter")
        if over == OURS:
            yield ours
            return
        await ours.channel_ready()
        (node,) = await client.nodes("greeter")
        async with grpc.aio.insecure_channel(node.address) as bare:
            yield bare


async def ended(work: Callable[[], Any]) -> Any:
    """The result of `work`, or the type of what it raised: of an error of ours, grpc.aio's type."""
    try:
        return await work()
    except asyncio.CancelledError:
        return asyncio.CancelledError
    except grpc.aio.AioRpcError as exc:
        return exc.code()
    except Exception as exc:
        return type(exc)


async def _await(call: Any) -> Any:
    return await call


@OVER
async def test_a_request_that_cannot_be_serialized(over: str) -> None:
    async with channel(over) as (made, server):
        outcome = await ended(lambda: rpc.GreeterStub(made).SayHello({"name": "Ada"}))
        if over == BARE:
            assert outcome.message == "Hello "
            assert server.calls == 1  # it was sent an empty request
        else:
            assert outcome is TypeError
            assert server.calls == 0


@OVER
async def test_a_response_that_cannot_be_read(over: str) -> None:
    async with odd_channel(over) as made:
        greet = rpc.GreeterStub(made)
        assert await ended(lambda: _await(greet.SayHello(hello()))) is (
            None if over == BARE else grpc.StatusCode.INTERNAL
        )
        call = greet.CountDown(count_down(3))
        read = [await ended(call.read) for _ in range(3)]
        assert [getattr(one, "number", one) for one in read] == (
            [1, None, 3] if over == BARE else [1, grpc.StatusCode.INTERNAL, grpc.StatusCode.INTERNAL]
        )


@OVER
async def test_requests_that_fail(over: str) -> None:
    async def source() -> AsyncIterator[Any]:
        yield hello()
        raise LookupError("row 2")

    async with channel(over) as (made, _):
        outcome = await ended(lambda: _await(rpc.GreeterStub(made).GreetAll(source())))
        assert outcome is (asyncio.CancelledError if over == BARE else LookupError)


@OVER
async def test_requests_that_nobody_takes_any_more(over: str) -> None:
    waits, left = asyncio.Event(), asyncio.Event()

    async def source() -> AsyncIterator[Any]:
        try:
            yield hello("fail")
            waits.set()
            await asyncio.Event().wait()
        finally:
            left.set()

    async with channel(over) as (made, server), asyncio.timeout(10):
        call = rpc.GreeterStub(made).GreetAll(source())
        await waits.wait()
        server.release.set()
        assert await ended(lambda: _await(call)) is grpc.StatusCode.NOT_FOUND
        if over == OURS:
            await left.wait()
        else:
            for _ in range(10):
                await asyncio.sleep(0)
            assert not left.is_set()
        call.cancel()
        for task in asyncio.all_tasks():  # bare's goes on for ever
            if "_consume_request_iterator" in repr(task.get_coro()):
                task.cancel()


@OVER
async def test_a_stream_that_nobody_holds(over: str) -> None:
    async with channel(over) as (made, server):
        greet = rpc.GreeterStub(made)
        async for _ in greet.CountDown(count_down(9999)):
            break
        gc.collect()
        if over == OURS:
            await server.until(lambda: server.running == 0)
        else:
            for _ in range(10):
                await asyncio.sleep(0)
            assert server.running == 1 or OLD  # 1.68 ends it


@OVER
async def test_a_failed_stream_once_more(over: str) -> None:
    async with channel(over) as (made, _):
        call = made.unary_stream("/greeter.v1.Greeter/Nothing")(b"")

        async def iterate() -> Any:
            return [message async for message in call]

        assert await ended(iterate) is grpc.StatusCode.UNIMPLEMENTED
        assert await ended(iterate) == ([] if over == BARE else grpc.StatusCode.UNIMPLEMENTED)


@OVER
async def test_two_tasks_on_one_stream(over: str) -> None:
    async with channel(over) as (made, _):
        responses = aiter(rpc.GreeterStub(made).CountDown(count_down(2)))
        first, second = await asyncio.gather(*[ended(lambda: anext(responses)) for _ in range(2)])
        assert first.number == 2
        if over == BARE:
            assert second is RuntimeError
        else:
            assert second.number == 1


@OVER
@pytest.mark.parametrize("timeout", [float("inf"), 1e10])
async def test_a_timeout_without_end(over: str, timeout: float) -> None:
    async with channel(over) as (made, _):
        outcome = await ended(lambda: _await(rpc.GreeterStub(made).SayHello(hello(), timeout=timeout)))
        if over == BARE:
            assert outcome is grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            assert outcome.message == "Hello Ada"


@OVER
async def test_a_unary_call_without_a_timeout(over: str) -> None:
    async with channel(over) as (made, server):
        await rpc.GreeterStub(made).SayHello(hello())
        if over == BARE:
            assert server.remaining == [None]
        else:
            assert 4 < server.remaining[0] <= 5


@OVER
async def test_metadata_that_cannot_be_sent(over: str) -> None:
    async with channel(over) as (made, server):
        greet = rpc.GreeterStub(made)
        outcome = await ended(lambda: _await(greet.SayHello(hello(), metadata=(("X-Up", "1"),))))
        if over == BARE:
            assert not hasattr(outcome, "message")  # an error that names no key
        else:
            assert outcome.message == "Hello Ada"
            assert server.metadata[-1]["x-up"] == "1"
            bad = await ended(lambda: _await(greet.SayHello(hello(), metadata=((":path", "1"),))))
            assert bad is grpc.StatusCode.INVALID_ARGUMENT


@OVER
async def test_an_error(over: str) -> None:
    async with channel(over) as (made, server):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc.GreeterStub(made).SayHello(hello("fail"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert isinstance(caught.value, pymicro.NotFound) is (over == OURS)
        if over == OURS:
            assert caught.value.node == server.node  # type: ignore[attr-defined]


@OVER
async def test_an_interceptor_that_answers_itself(over: str) -> None:
    class Plain(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return await (await continuation(details, request))

    async with (
        greeter() as (client, _, (server,)),
        grpc.aio.insecure_channel(server.node.address, interceptors=[Plain()]) as bare,
    ):
        made = client.channel("greeter", interceptors=[Plain()]) if over == OURS else bare
        call = rpc.GreeterStub(made).SayHello(hello())
        assert (await call).message == "Hello Ada"
        metadata = await call.initial_metadata()
        if over == BARE:
            assert not metadata
        else:
            assert dict(tuple(metadata))["served-by"] == server.node.id


@OVER
async def test_the_wait_of_an_interceptor(over: str) -> None:
    class Slow(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            await asyncio.sleep(0.3)
            return await continuation(details, request)

    async with (
        greeter() as (client, _, (server,)),
        grpc.aio.insecure_channel(server.node.address, interceptors=[Slow()]) as bare,
    ):
        made = client.channel("greeter", interceptors=[Slow()]) if over == OURS else bare
        await rpc.GreeterStub(made).SayHello(hello(), timeout=10)
        assert (server.remaining[0] > 9.85) is (over == BARE)


@OVER
async def test_a_write_that_meets_the_peers_refusal(over: str) -> None:
    codes: set[Any] = set()
    async with flaky(1, client_retries=0) as nodes:
        from .flaky import EXHAUSTED, Refusal

        nodes.refuse = lambda _: Refusal(EXHAUSTED)
        async with grpc.aio.insecure_channel(nodes.nodes[0].address) as bare:
            made = nodes.client.channel("t") if over == OURS else bare
            for _ in range(300):
                call = made.stream_stream("/t.T/Chat")()

                async def writes(call: Any = call) -> None:
                    for _ in range(3):
                        await call.write(b"x" * 1000)

                await ended(writes)
                codes.add(await call.code())
                if len(codes) == 2:
                    break
                call.cancel()
    both = {EXHAUSTED, grpc.StatusCode.INTERNAL}
    assert codes == (both if over == BARE else {EXHAUSTED})


# On the server


class _Raises:
    @pymicro.handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        raise KeyError("the password is 1234")


class _BareRaises(rpc.GreeterServicer):
    async def SayHello(self, request: Any, context: Any) -> Any:
        raise KeyError("the password is 1234")


@OVER
async def test_an_exception_of_a_handler(over: str) -> None:
    if over == OURS:
        service = pymicro.Service("greeter")
        service.add(_Raises(), pb, partial=True)
        async with running(service) as ran:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rpc.GreeterStub(ran.channel("greeter")).SayHello(hello())
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "1234" not in (caught.value.details() or "")
    else:
        server = grpc.aio.server()
        rpc.add_GreeterServicer_to_server(_BareRaises(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as made:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rpc.GreeterStub(made).SayHello(hello())
        await server.stop(None)
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        assert "1234" in (caught.value.details() or "")


def test_the_page_names_these_tests() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "differences.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    here = {name for name in globals() if name.startswith("test_")} - {"test_the_page_names_these_tests"}
    assert named == here
