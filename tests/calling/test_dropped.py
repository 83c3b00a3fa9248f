"""Streams whose reader goes away end; nothing that lives as long as the call may hold it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pymicro import Client

from .backends import Backend, count_down, greeter, hello, in_flight, stub
from .test_calls import _LateRegistry

STREAMS: dict[str, Callable[[Any], Any]] = {
    "unary_stream": lambda greet: greet.CountDown(count_down(9999)),
    "stream_unary": lambda greet: greet.GreetAll(_endless(hello())),
    "stream_stream": lambda greet: greet.Chat(),
}


async def _endless(message: Any) -> Any:
    yield message
    await asyncio.Event().wait()


async def _read_some(call: Any) -> None:
    if hasattr(call, "read"):
        if hasattr(call, "write"):
            from greeter.v1 import greeter_pb2 as pb

            await call.write(pb.ChatMessage(text="x"))
        await call.read()
    else:
        await call.wait_for_connection()


async def _ended(server: Backend) -> None:
    gc.collect()
    # On the server a cancelled stream of requests may look like one that ended.
    await server.until(lambda: server.calls == 1 and server.running == 0)


@pytest.mark.parametrize("with_callback", [False, True])
@pytest.mark.parametrize("shape", STREAMS)
async def test_a_stream_nobody_holds_any_more_is_cancelled(shape: str, with_callback: bool) -> None:
    async with greeter() as (client, _, (server,)):
        call = STREAMS[shape](stub(client))
        ended: list[bool] = []
        if with_callback:
            call.add_done_callback(lambda call: ended.append(call.cancelled()))
        if shape != "stream_unary":
            await _read_some(call)
        await server.until(lambda: server.running == 1)
        del call
        await _ended(server)
        assert in_flight(client) == 0
        assert ended == ([True] if with_callback else [])


async def test_breaking_out_of_a_loop_ends_the_stream() -> None:
    async with greeter() as (client, _, (server,)):
        async for _ in stub(client).CountDown(count_down(9999)):
            break
        await _ended(server)
        assert in_flight(client) == 0


async def test_a_loop_holds_its_call() -> None:
    async with greeter() as (client, _, _):
        seen = 0
        async for _ in stub(client).CountDown(count_down(500)):
            seen += 1
            if seen % 100 == 0:
                gc.collect()
        assert seen == 500


@pytest.mark.parametrize("with_callback", [False, True])
@pytest.mark.parametrize("shape", STREAMS)
async def test_a_stream_dropped_before_the_first_node_set_never_starts(
    shape: str, with_callback: bool
) -> None:
    async with Client(registry=_LateRegistry()) as client:
        channel = client.channel("greeter")
        from greeter.v1 import greeter_pb2_grpc as rpc

        call = STREAMS[shape](rpc.GreeterStub(channel))
        ended: list[bool] = []
        if with_callback:
            call.add_done_callback(lambda call: ended.append(call.cancelled()))
        await asyncio.sleep(0)  # one turn: the call is waiting now
        assert len(channel.live) == 1
        del call
        gc.collect()
        assert not channel.live
        assert ended == ([True] if with_callback else [])


async def test_a_stream_collected_in_another_thread_is_cancelled_too() -> None:
    async with greeter() as (client, _, (server,)):
        held = [stub(client).CountDown(count_down(9999))]
        await held[0].read()
        thread = threading.Thread(target=held.clear)
        thread.start()
        await asyncio.to_thread(thread.join)
        await _ended(server)
        assert in_flight(client) == 0


async def test_a_stream_dropped_in_a_cycle_is_cancelled_when_it_is_collected() -> None:
    async with greeter() as (client, _, (server,)):
        call = stub(client).CountDown(count_down(9999))
        ended: list[bool] = []
        call.add_done_callback(lambda call: ended.append(call.cancelled()))
        await call.read()
        cycle: list[Any] = [call]
        cycle.append(cycle)
        del call, cycle
        await _ended(server)
        assert in_flight(client) == 0
        assert ended == [True]
