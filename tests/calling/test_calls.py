"""Call objects: all of grpc.aio's interface, before and after a node is known."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import grpc
import grpc.aio
import pytest

import pymicro
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import Client, MemoryRegistry, Node

from .backends import backend, count_down, greeter, hello, in_flight, stub, until


async def _names(*names: str) -> Any:
    for name in names:
        yield hello(name)


async def _reads(call: Any) -> Any:
    while (message := await call.read()) is not grpc.aio.EOF:
        yield message


async def test_all_four_shapes_through_a_generated_stub() -> None:
    async with greeter() as (client, _, _):
        greet = stub(client)
        assert (await greet.SayHello(hello())).message == "Hello Ada"
        assert [reply.number async for reply in greet.CountDown(count_down(3))] == [3, 2, 1]
        assert (await greet.GreetAll(_names("a", "b"))).message == "a, b"
        assert (await greet.GreetAll(iter([hello("c")]))).message == "c"
        lines = [line.text async for line in greet.Chat(iter([pb.ChatMessage(text="x")]))]
        assert lines == ["X"]
        assert in_flight(client) == 0


async def test_the_call_object_tells_status_and_metadata() -> None:
    async with greeter() as (client, _, (server,)):
        call = stub(client).SayHello(hello(), timeout=3)
        assert isinstance(call, grpc.aio.UnaryUnaryCall)
        assert 2 < call.time_remaining() <= 3
        ended: list[Any] = []
        call.add_done_callback(ended.append)
        assert (await call).message == "Hello Ada"
        assert (await call).message == "Hello Ada"  # awaiting again gives the same
        assert await call.code() is grpc.StatusCode.OK
        assert await call.details() == ""
        assert dict(tuple(await call.initial_metadata()))["served-by"] == server.node.id
        assert dict(tuple(await call.trailing_metadata()))["trailer"] == "yes"
        assert call.done()
        assert not call.cancelled()
        assert not call.cancel()
        assert ended == [call]
        call.add_done_callback(ended.append)
        assert ended == [call, call]
        assert call.node == server.node


@pytest.mark.parametrize("shape", ["stream_unary", "stream_stream"])
@pytest.mark.parametrize("whose", ["iterator", "done_writing"])
async def test_requests_that_end_after_the_deadline_end_the_call_as_the_deadline_does(
    shape: str, whose: str
) -> None:
    def hold() -> None:
        time.sleep(1.1)  # longer than the call may take: nobody hears of its end meanwhile

    async def requests(sent: asyncio.Event) -> Any:
        yield hello("a") if shape == "stream_unary" else pb.ChatMessage(text="a")
        await sent.wait()
        hold()

    async with greeter() as (client, _, (server,)):
        greet = stub(client)
        method = greet.GreetAll if shape == "stream_unary" else greet.Chat
        sent = asyncio.Event()
        call = method(requests(sent), timeout=1) if whose == "iterator" else method(timeout=1)
        if whose == "done_writing":
            await call.write(hello("a") if shape == "stream_unary" else pb.ChatMessage(text="a"))
        await server.until(lambda: server.running == 1)
        if whose == "iterator":
            sent.set()
        else:
            hold()
            await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            if shape == "stream_unary":
                await call
            else:
                async for _ in call if whose == "iterator" else _reads(call):
                    pass
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_responses_that_nobody_reads_end_with_the_deadline_of_their_call() -> None:
    async with greeter() as (client, _, (server,)):
        await stub(client).SayHello(hello())
        call = stub(client).CountDown(count_down(3), timeout=1)
        await server.until(lambda: server.calls == 2 and not server.running)
        async with asyncio.timeout(10):
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(pymicro.DeadlineExceeded):
            [reply async for reply in call]
        assert in_flight(client) == 0


async def test_read_and_write_one_message_at_a_time() -> None:
    async with greeter() as (client, _, _):
        chat = stub(client).Chat()
        await chat.wait_for_connection()
        for text in ("a", "b"):
            await chat.write(pb.ChatMessage(text=text))
            assert (await chat.read()).text == text.upper()
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        assert await chat.code() is grpc.StatusCode.OK
        with pytest.raises(asyncio.InvalidStateError):
            await chat.write(pb.ChatMessage(text="late"))
        gather = stub(client).GreetAll()
        await gather.write(hello("x"))
        await gather.done_writing()
        assert (await gather).message == "x"
        count = stub(client).CountDown(count_down(1))
        assert (await count.read()).number == 1
        assert await count.read() is grpc.aio.EOF


async def test_mixing_iteration_and_read_is_refused_as_in_grpc_aio() -> None:
    async with greeter() as (client, _, _):
        count = stub(client).CountDown(count_down(9))
        assert (await count.read()).number == 9
        with pytest.raises(grpc.aio.UsageError):
            aiter(count)
        count.cancel()


async def test_tasks_that_read_side_by_side_get_a_response_each_in_their_order() -> None:
    async with greeter() as (client, _, _):
        call = stub(client).CountDown(count_down(3))
        read = [asyncio.create_task(call.read()) for _ in range(5)]
        given = await asyncio.gather(*read)
        assert [one.number for one in given[:3]] == [3, 2, 1]
        assert given[3:] == [grpc.aio.EOF, grpc.aio.EOF]
        assert await call.code() is grpc.StatusCode.OK


async def test_cancelling_one_of_several_readers_cancels_the_call_for_all() -> None:
    async with greeter() as (client, _, (server,)):
        call = stub(client).CountDown(count_down(9001))
        while (await call.read()).number > 1:
            pass
        begun: list[None] = []

        async def one() -> Any:
            begun.append(None)
            return await call.read()

        read = [asyncio.create_task(one()) for _ in range(3)]
        await until(lambda: len(begun) == 3)
        read[1].cancel()
        given = await asyncio.gather(*read, return_exceptions=True)
        assert [type(one) for one in given] == [asyncio.CancelledError] * 3
        assert call.cancelled()
        await server.until(lambda: server.cancelled == 1)


@pytest.mark.parametrize("asked", ["initial_metadata", "trailing_metadata", "code", "details"])
async def test_who_asks_and_is_cancelled_does_not_cancel_the_call(asked: str) -> None:
    async with greeter() as (client, _, (server,)):
        call = stub(client).SayHello(hello("wait"), timeout=20)
        await server.until(lambda: server.running == 1)
        begun = asyncio.Event()

        async def ask() -> None:
            begun.set()
            await getattr(call, asked)()

        task = asyncio.create_task(ask())
        await begun.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert not call.done()
        server.release.set()
        assert (await call).message == "Hello wait"


async def test_a_write_after_the_end_says_that_it_has_ended() -> None:
    async with greeter() as (client, _, _):
        call = stub(client).GreetAll()
        await call.done_writing()
        with pytest.raises(asyncio.InvalidStateError, match="half closed"):
            await call.write(hello())
        await call
        with pytest.raises(asyncio.InvalidStateError, match="already finished"):
            await call.write(hello())


async def test_an_error_carries_status_metadata_node_and_callee() -> None:
    async with greeter() as (client, _, (server,)):
        call = stub(client).SayHello(hello("fail"))
        with pytest.raises(pymicro.NotFound) as caught:
            await call
        error = caught.value
        assert isinstance(error, grpc.RpcError)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert error.details() == "nobody of that name"
        assert dict(tuple(error.trailing_metadata()))["why"] == "gone"
        assert error.node == server.node
        assert error.callee == "greeter/greeter.v1.Greeter/SayHello"
        assert error.from_peer is True
        assert await call.code() is grpc.StatusCode.NOT_FOUND
        assert in_flight(client) == 0


async def test_errors_of_streams_are_ours_too() -> None:
    async with greeter() as (client, _, _):
        channel = client.channel("greeter")
        absent = channel.unary_stream("/greeter.v1.Greeter/Absent", bytes, bytes)
        with pytest.raises(pymicro.Unimplemented):
            async for _ in absent(b""):
                pytest.fail("a method that is not there answered")
        with pytest.raises(pymicro.Unimplemented):
            await channel.stream_unary("/greeter.v1.Greeter/Absent", bytes, bytes)(iter([b""]))
        call = channel.stream_stream("/greeter.v1.Greeter/Absent", bytes, bytes)()
        with pytest.raises(pymicro.Unimplemented):
            await call.read()


async def test_a_request_that_cannot_be_serialized_is_counted_to_its_end() -> None:
    async with greeter() as (client, _, _):
        # grpc.aio logs the failure and sends no message's bytes: what comes of it is grpc.aio's.
        with contextlib.suppress(Exception):
            await stub(client).SayHello("no message")
        assert in_flight(client) == 0


async def test_a_unary_call_that_nobody_awaits_runs_to_its_end() -> None:
    async with greeter() as (client, _, (server,)):
        await stub(client).SayHello(hello())
        stub(client).SayHello(hello())
        await server.until(lambda: server.calls == 2 and server.running == 0)
        assert server.cancelled == 0


async def test_calls_made_before_the_first_node_is_known_wait_for_it() -> None:
    registry = _LateRegistry()
    async with backend() as server, Client(registry=registry) as client:
        greet = stub(client)
        said = greet.SayHello(hello())
        counted = greet.CountDown(count_down(2))
        gathered = greet.GreetAll()
        chat = greet.Chat(iter([pb.ChatMessage(text="x")]))
        ended: list[Any] = []
        said.add_done_callback(ended.append)
        assert not said.done()
        assert 4 < said.time_remaining() <= 5  # the default timeout
        assert counted.time_remaining() is None
        writing = asyncio.create_task(gathered.write(hello("w")))
        code = asyncio.create_task(said.code())
        registry.answer(server.node)
        assert (await said).message == "Hello Ada"
        assert ended == [said]
        assert await code is grpc.StatusCode.OK
        assert said.node == server.node
        assert [reply.number async for reply in counted] == [2, 1]
        await writing
        await gathered.done_writing()
        assert (await gathered).message == "w"
        assert [line.text async for line in chat] == ["X"]
        assert in_flight(client) == 0


async def test_a_call_fails_with_its_deadline_while_no_registry_answers() -> None:
    async with Client(registry=_LateRegistry()) as client:
        call = stub(client).SayHello(hello(), timeout=0.05)
        with pytest.raises(pymicro.DeadlineExceeded, match="greeter") as caught:
            await call
        assert caught.value.from_peer is False
        assert caught.value.callee == "greeter/greeter.v1.Greeter/SayHello"
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "greeter" in await call.details()
        assert call.done()
        assert list(await call.initial_metadata()) == []
        assert list(await call.trailing_metadata()) == []


async def test_an_empty_set_fails_at_once_and_says_what_was_looked_up() -> None:
    async with Client(registry=MemoryRegistry()) as client:
        with pytest.raises(pymicro.Unavailable, match=r"no node for greeter.*memory.*0 nodes") as caught:
            await stub(client).SayHello(hello(), timeout=60)
        assert caught.value.from_peer is False
        with pytest.raises(pymicro.Unavailable):
            async for _ in stub(client).CountDown(count_down(1)):
                pytest.fail("nobody answered, and yet there is an answer")
        with pytest.raises(pymicro.Unavailable):
            await stub(client).GreetAll().write(hello())


async def test_wait_for_ready_waits_for_a_node() -> None:
    registry = MemoryRegistry()
    async with registry, Client(registry=registry) as client:
        waiting = asyncio.ensure_future(stub(client).SayHello(hello(), wait_for_ready=True))
        with pytest.raises(pymicro.Unavailable):
            await stub(client).SayHello(hello())
        assert not waiting.done()
        async with backend(registry):
            assert (await waiting).message == "Hello Ada"


async def test_a_cancelled_caller_cancels_its_call_on_the_server() -> None:
    async with greeter() as (client, _, (server,)):
        task = asyncio.ensure_future(stub(client).SayHello(hello("wait")))
        await server.until(lambda: server.running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda: server.cancelled == 1)
        assert in_flight(client) == 0


@pytest.mark.parametrize("turns", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("known", [True, False])
async def test_a_call_cancelled_at_any_stage_leaves_nothing_behind(turns: int, known: bool) -> None:
    async with greeter() as (client, _, _):
        greet = stub(client)
        if known:
            await greet.SayHello(hello())
        before = asyncio.all_tasks()
        calls = [
            greet.SayHello(hello("wait")),
            greet.CountDown(count_down(9999)),
            greet.GreetAll(),
            greet.Chat(),
        ]
        reading = [
            asyncio.ensure_future(calls[0]),
            asyncio.ensure_future(calls[1].read()),
            asyncio.ensure_future(calls[2]),
            asyncio.ensure_future(calls[3].read()),
        ]
        for _ in range(turns):
            await asyncio.sleep(0)  # one turn of the loop: one stage further
        for task in reading:
            task.cancel()
        await asyncio.wait(reading)
        for call, task in zip(calls, reading, strict=True):
            if not task.cancelled():  # it had its message before it could be cancelled
                call.cancel()
            assert call.done()
            assert await call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.OK)
        del calls, call, reading, task
        assert in_flight(client) == 0
        if known:  # else the tasks that follow the nodes are new, and stay
            # The server in this process takes its next call in a task of its own.
            left = {task for task in asyncio.all_tasks() - before if "AioServer" not in repr(task)}
            if left:
                _, left = await asyncio.wait(left, timeout=1)
            assert not left


async def test_cancel_while_waiting_for_a_node_is_seen_at_once() -> None:
    async with Client(registry=_LateRegistry()) as client:
        call = stub(client).SayHello(hello())
        ended: list[Any] = []
        call.add_done_callback(ended.append)
        assert call.cancel()
        assert call.cancelled()
        assert call.done()
        assert ended == [call]
        assert not call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(0)  # a turn for the task that was waiting
        assert not [task for task in asyncio.all_tasks() if "SayHello" in task.get_name()]


async def test_the_default_timeout_bounds_unary_calls_and_not_streams() -> None:
    async with greeter(client_request_timeout=1.5) as (client, _, (server,)):
        await stub(client).SayHello(hello())
        assert server.remaining[-1] is not None
        assert 0.5 < server.remaining[-1] <= 1.5
        await stub(client).SayHello(hello(), timeout=30)
        assert server.remaining[-1] is not None
        assert server.remaining[-1] > 20
        _ = [reply async for reply in stub(client).CountDown(count_down(1))]
        assert server.remaining[-1] is None
        await stub(client, timeout=None).SayHello(hello())
        assert server.remaining[-1] is None
        with pytest.raises(pymicro.DeadlineExceeded):
            await stub(client, timeout=0.05).SayHello(hello("wait"))


async def test_metadata_is_sent_in_every_form_grpc_takes() -> None:
    async with greeter() as (client, _, (server,)):
        for metadata in (
            (("k", "v"),),
            [("k", "v")],
            grpc.aio.Metadata(("k", "v")),
        ):
            await stub(client).SayHello(hello(), metadata=metadata)
            assert server.metadata[-1]["k"] == "v"


@pytest.mark.grpc_only(reason="channel options are grpc-core's")
async def test_options_and_compression_pass_through() -> None:
    async with greeter() as (client, _, (server,)):
        greet = stub(
            client, options=(("grpc.primary_user_agent", "ours/1"),), compression=grpc.Compression.Gzip
        )
        await greet.SayHello(hello("x" * 5000))
        assert server.metadata[-1]["user-agent"].startswith("ours/1")
        small = stub(client, options=(("grpc.max_send_message_length", 100),))
        with pytest.raises(pymicro.ResourceExhausted):
            await small.SayHello(hello("x" * 5000))


@pytest.mark.grpc_only(reason="a transport keeps its own limits")
async def test_a_message_over_the_limit_is_refused() -> None:
    async with greeter(max_sent_message_size=1000) as (client, _, _):
        with pytest.raises(pymicro.ResourceExhausted):
            await stub(client).SayHello(hello("x" * 2000))


async def test_a_call_outside_the_client_says_so() -> None:
    client = Client(registry=MemoryRegistry())
    greet = stub(client)  # no loop and no opening is needed for this
    with pytest.raises(pymicro.PymicroError, match="not open"):
        greet.SayHello(hello())
    async with client:
        with pytest.raises(pymicro.Unavailable):
            await greet.SayHello(hello())
    with pytest.raises(pymicro.PymicroError, match="not open"):
        greet.SayHello(hello())
    async with client:  # and again: a client may be opened several times
        with pytest.raises(pymicro.Unavailable):
            await greet.SayHello(hello())


async def test_leaving_the_client_ends_calls_in_every_state() -> None:
    async with backend() as server:
        async with Client(registry="static", registry_address=f"greeter={server.node.address}") as client:
            calls = [
                stub(client).SayHello(hello("wait")),
                stub(client).CountDown(count_down(9999)),
                stub(client).SayHello(hello("wait"), wait_for_ready=True),
                stub(client, "nobody").SayHello(hello(), wait_for_ready=True),
            ]
            await server.until(lambda: server.running == 3)
        for call in calls:
            assert call.cancelled()
        await server.until(lambda: server.running == 0)


async def test_closing_a_channel_ends_its_own_calls_only() -> None:
    async with greeter() as (client, _, (server,)):
        first, second = client.channel("greeter"), client.channel("greeter")
        ours = rpc.GreeterStub(first).SayHello(hello("wait"))
        theirs = rpc.GreeterStub(second).SayHello(hello("wait"))
        await server.until(lambda: server.running == 2)
        await first.close()
        assert ours.cancelled()
        await server.until(lambda: server.running == 1)
        server.release.set()
        assert (await theirs).message == "Hello wait"
        with pytest.raises(grpc.aio.UsageError):
            rpc.GreeterStub(first).SayHello(hello())
        assert first.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_closing_with_grace_lets_calls_finish() -> None:
    async with greeter() as (client, _, (server,)):
        channel = client.channel("greeter")
        call = asyncio.ensure_future(rpc.GreeterStub(channel).SayHello(hello("wait")))
        await server.until(lambda: server.running == 1)
        closing = asyncio.create_task(channel.close(grace=30))
        await asyncio.sleep(0)
        server.release.set()
        await closing
        assert (await call).message == "Hello wait"


class _LateRegistry(MemoryRegistry):
    """A registry that is silent until it is told the answer."""

    def __init__(self) -> None:
        super().__init__()
        self._answered = asyncio.Event()
        self._nodes: list[Node] = []

    def answer(self, *nodes: Node) -> None:
        self._nodes = list(nodes)
        self._answered.set()

    async def watch(self, service: str) -> Any:
        await self._answered.wait()
        yield pymicro.NodeSet.of(self._nodes)
        await asyncio.Event().wait()
