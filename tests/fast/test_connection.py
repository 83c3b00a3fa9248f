"""A connection of transport fast against servers that do what grpc.aio's would not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from pymicro.base.errors import ConfigError
from pymicro.calling.connections.fast import FastTransport
from pymicro.calling.connections.fast.call import FastCall
from pymicro.calling.connections.fast.connection import FastConnection
from pymicro.calling.connections.method import Method
from pymicro.calling.connections.options import ChannelOptions
from pymicro.nodes.node import Node
from pymicro.rpc.wire.shape import Shape
from pymicro.settings.config import Config
from pymicro_fast import Stream, wire

from .ends import OK, Connection, End, Ends, Served, ends

READY = grpc.ChannelConnectivity.READY
IDLE = grpc.ChannelConnectivity.IDLE
CONNECTING = grpc.ChannelConnectivity.CONNECTING
FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE
Code = grpc.StatusCode


@asynccontextmanager
async def connection(
    address: str, *options: tuple[str, Any], compression: Any = None, **settings: Any
) -> AsyncIterator[FastConnection]:
    opened = FastTransport().open(
        Node("n", address, "greeter", metadata=settings.pop("metadata", {})),
        Config(**settings),
        ChannelOptions(options, compression),
    )
    assert isinstance(opened, FastConnection)
    try:
        yield opened
    finally:
        await opened.close()


def called(
    opened: FastConnection,
    request: bytes | None = b"x",
    *,
    shape: Shape = Shape.UNARY_UNARY,
    path: str = "/a/b",
    timeout: float | None = 10.0,
    **given: Any,
) -> FastCall:
    method = Method(shape, path, None, None, False, shared=False)
    arguments = {"metadata": None, "credentials": None, "compression": None, **given}
    call = opened.bind(method)(request, timeout=timeout, **arguments)
    assert isinstance(call, FastCall)
    return call


async def until(opened: FastConnection, state: grpc.ChannelConnectivity) -> None:
    async with asyncio.timeout(10):
        while (last := opened.state()) is not state:
            await opened.change(last)


def at(made: Ends) -> str:
    return f"127.0.0.1:{made.port}"


async def ended(call: FastCall) -> Any:
    with contextlib.suppress(AioRpcError):
        await call
    return call.code, call.status().details


async def test_calls_above_the_servers_streams_wait_for_room_in_their_order() -> None:
    running: asyncio.Queue[Stream] = asyncio.Queue()

    class Held(End):
        told = False

        def changed(self) -> None:
            if self.ended and not self.told:
                self.told = True
                running.put_nowait(self)

    async with ends(Held, max_streams=3) as made, connection(at(made)) as opened:
        opened.state(True)
        await until(opened, READY)
        calls = [called(opened, b"%d" % number) for number in range(8)]
        served: list[bytes | None] = []
        for _ in range(8):
            async with asyncio.timeout(10):
                stream = await running.get()
            assert made.served[0].open_streams <= 3
            served.append(stream.take())
            stream.send(b"done")
            stream.finish([OK])
        assert [await call for call in calls] == [b"done"] * 8
        assert served == [b"%d" % number for number in range(8)]


async def test_a_call_that_waits_for_room_ends_at_its_deadline_and_when_it_is_cancelled() -> None:
    class Held(End):
        def changed(self) -> None:
            pass

    async with ends(Held, max_streams=1) as made, connection(at(made)) as opened:
        opened.state(True)
        await until(opened, READY)
        first = called(opened)
        late, dropped = called(opened, timeout=0.05), called(opened)
        assert dropped.cancel()
        assert (await ended(late))[0] is Code.DEADLINE_EXCEEDED
        assert opened.cancelled_here(dropped)
        assert not opened._waiting
        # One that ends makes room, also one that this side ends.
        next_one = called(opened)
        first.cancel()
        async with asyncio.timeout(10):
            await next_one.wait_for_connection()
        next_one.cancel()


async def test_a_stream_that_was_refused_goes_out_once_more() -> None:
    seen: list[bytes | None] = []

    class Refusing(Served):
        def changed(self) -> None:
            if self.ended and not self.half_closed and not self.closed:
                seen.append(self.take())
                if len(seen) == 1:
                    self.reset(7)
                else:
                    self.send(b"done")
                    self.finish([OK])

    async with ends(Refusing) as made, connection(at(made)) as opened:
        assert await called(opened, b"request") == b"done"
        assert seen == [b"request", b"request"]


async def test_one_that_is_refused_again_and_again_is_unavailable() -> None:
    class Refusing(End):
        def changed(self) -> None:
            self.reset(7)

    async with ends(Refusing) as made, connection(at(made)) as opened:
        assert await ended(called(opened)) == (Code.UNAVAILABLE, "the peer reset the stream: REFUSED_STREAM")


async def test_calls_above_a_goaway_go_to_the_next_connection_and_those_below_finish_on_the_old_one() -> None:
    """Streams of requests, too, as long as nobody has answered them."""
    held: list[Held] = []

    class Held(Served):
        async def serve(self) -> None:
            held.append(self)
            await super().serve()

    async with ends(Held) as made, connection(at(made)) as opened:
        below = called(opened, None, shape=Shape.STREAM_STREAM)
        await below.write(b"first")
        assert await anext(aiter(below)) == b"first"
        server = made.served[0]
        above = called(opened, b"unary")
        stream = called(opened, None, shape=Shape.STREAM_STREAM)
        await stream.write(b"one")
        server.goaway(held[0].id)
        await stream.write(b"two")
        await stream.done_writing()
        assert await above == b"unary"
        assert [message async for message in stream] == [b"one", b"two"]
        assert len(made.served) == 2
        await below.write(b"last")
        assert await anext(aiter(below)) == b"last"
        await below.done_writing()
        assert [message async for message in below] == []
        assert (below.code, stream.code) == (Code.OK, Code.OK)
        # And then the old connection is closed.
        async with asyncio.timeout(10):
            await server.gone


async def test_to_drain_it_waits_for_the_calls_of_a_session_that_the_peer_has_drained_already() -> None:
    held: list[Held] = []

    class Held(Served):
        async def serve(self) -> None:
            held.append(self)
            await super().serve()

    async with ends(Held) as made, connection(at(made)) as opened:
        call = called(opened, None, shape=Shape.STREAM_STREAM)
        await call.write(b"first")
        assert await anext(aiter(call)) == b"first"
        made.served[0].goaway(held[0].id)
        await until(opened, IDLE)
        draining = asyncio.create_task(opened.drain())
        await call.write(b"second")
        assert await anext(aiter(call)) == b"second"
        assert not draining.done()
        await call.done_writing()
        assert [message async for message in call] == []
        async with asyncio.timeout(10):
            await draining
        assert call.code is Code.OK


async def test_a_lost_connection_fails_what_was_sent_and_is_made_again_for_the_next_call() -> None:
    class Held(Served):
        async def serve(self) -> None:
            if self.path == b"/held":
                await self.until(lambda: self.closed)
            await super().serve()

    async with ends(Held) as made, connection(at(made)) as opened:
        call = called(opened, path="/held")
        await call.wait_for_connection()
        made.served[0].abort("on purpose")
        code, details = await ended(call)
        assert code is Code.UNAVAILABLE
        assert "connection was lost" in details
        assert opened.state() in (IDLE, CONNECTING)
        assert await called(opened, b"again") == b"again"


async def test_attempts_to_connect_are_further_and_further_apart() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        options = (("grpc.initial_reconnect_backoff_ms", 40), ("grpc.max_reconnect_backoff_ms", 100))
        async with connection(address, *options) as opened:
            loop = asyncio.get_running_loop()
            moments = []
            opened.state(True)
            for _ in range(5):
                await until(opened, FAILED)
                code, details = await ended(called(opened))
                assert code is Code.UNAVAILABLE
                assert details.startswith("failed to connect to all addresses; last error:")
                assert "Connection refused" in details
                await until(opened, CONNECTING)
                moments.append(loop.time())
            pauses = [after - before for before, after in pairwise(moments)]
            assert all(pause >= 0.04 * 0.8 for pause in pauses)
            assert opened._backoff == 0.1


async def test_a_peer_that_takes_the_connection_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with connection(address, ("grpc.min_reconnect_backoff_ms", 250)) as opened:
            code, details = await ended(called(opened))
            assert code is Code.UNAVAILABLE
            assert "it does not speak HTTP/2" in details


async def test_a_peer_that_speaks_something_else_is_named_so() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, connection(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as opened:
        code, details = await ended(called(opened))
        assert code is Code.UNAVAILABLE
        assert "before it spoke HTTP/2" in details


class Deaf(Connection):
    """A server that reads and never answers, from when it is told."""

    deaf = False

    def buffer_updated(self, count: int) -> None:
        if not self.deaf:
            super().buffer_updated(count)  # type: ignore[misc]


async def test_a_ping_that_nobody_answers_ends_the_connection() -> None:
    loop = asyncio.get_running_loop()
    buffers = Ends().buffers
    made: list[Deaf] = []

    def serve() -> Deaf:
        made.append(Deaf(loop, buffers, accept=Served))
        return made[-1]

    server = await loop.create_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    pings = (
        ("grpc.keepalive_time_ms", 50),
        ("grpc.http2.ping_timeout_ms", 200),
        ("grpc.keepalive_permit_without_calls", 1),
    )
    async with connection(address, *pings) as opened:
        opened.state(True)
        await until(opened, READY)
        # Answered, it lives through many of them.
        await asyncio.wait({made[0].gone}, timeout=0.5)
        assert opened.state() is READY
        made[0].deaf = True
        call = called(opened)
        code, details = await ended(call)
        assert code is Code.UNAVAILABLE
        assert "keepalive ping was not answered within 0.2 s" in details
    server.close()
    for one in made:
        one.abort("over")
        await one.gone
        for task in one.tasks:
            task.cancel()


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (lambda stream: stream.refuse([(b":status", b"404")]), Code.UNIMPLEMENTED, "status: 404"),
        (lambda stream: stream.refuse([(b":status", b"503")]), Code.UNAVAILABLE, "status: 503"),
        (
            lambda stream: stream.refuse([(b":status", b"200"), (b"content-type", b"text/html")]),
            Code.UNKNOWN,
            "no gRPC: its content-type is 'text/html'",
        ),
        (lambda stream: stream.finish([]), Code.UNKNOWN, "without a grpc-status"),
        (lambda stream: stream.finish([(b"grpc-status", b"many")]), Code.UNKNOWN, "no number"),
        (lambda stream: stream.finish([(b"grpc-status", b"99")]), Code.UNKNOWN, ""),
        (
            lambda stream: stream.finish([(b"grpc-status", b"5"), (b"grpc-message", b"caf%C3%A9 50%")]),
            Code.NOT_FOUND,
            "café 50%",
        ),
        (lambda stream: stream.reset(2), Code.INTERNAL, "INTERNAL_ERROR"),
        (lambda stream: stream.reset(8), Code.CANCELLED, "CANCEL"),
        (lambda stream: stream.reset(11), Code.RESOURCE_EXHAUSTED, "ENHANCE_YOUR_CALM"),
        (
            lambda stream: (stream.send(b"a"), stream.send(b"b"), stream.finish([OK])),
            Code.INTERNAL,
            "more than one",
        ),
        (lambda stream: (stream.send(b"no zip", True), stream.finish([OK])), Code.INTERNAL, "not known here"),
        (
            lambda stream: (stream.send(b"x" * 2000), stream.finish([OK])),
            Code.RESOURCE_EXHAUSTED,
            "larger than max (2000 vs. 1000)",
        ),
        (
            lambda stream: (
                stream.respond([(b"grpc-encoding", b"gzip")]),
                stream.send(wire.compress(b"gzip", bytes(2000)), True),
                stream.finish([OK]),
            ),
            Code.RESOURCE_EXHAUSTED,
            "larger than max",
        ),
        (
            lambda stream: stream.finish([OK, (b"big", b"x" * 20_000)]),
            Code.RESOURCE_EXHAUSTED,
            "metadata exceeds",
        ),
    ],
)  # fmt: skip
async def test_what_a_peer_may_answer(
    answer: Callable[[Any], Any], code: grpc.StatusCode, words: str
) -> None:
    class Answering(End):
        def changed(self) -> None:
            if self.ended and not self.half_closed and not self.closed:
                answer(self)

    async with ends(Answering) as made, connection(at(made), max_message_size=1000) as opened:
        found, details = await ended(called(opened))
        assert found is code
        assert words in details


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("by_default", [True, False])
async def test_requests_are_compressed_as_asked(compression: grpc.Compression, by_default: bool) -> None:
    class Answering(Served):
        def inflate(self, data: bytes) -> bytes:
            return wire.decompress(self.encoding, data, 1 << 20)

    async with (
        ends(Answering) as made,
        connection(at(made), compression=compression if by_default else None) as opened,
    ):
        given = {} if by_default else {"compression": compression}
        assert await called(opened, b"x" * 5000, **given) == b"x" * 5000
        stream = called(opened, None, shape=Shape.STREAM_STREAM, **given)
        for message in (b"a" * 3000, b"", b"b"):
            await stream.write(message)
            assert await anext(aiter(stream)) == message
        stream.cancel()


@pytest.mark.parametrize(
    ("address", "option", "words"),
    [
        (
            "127.0.0.1:1",
            ("grpc.lb_policy_name", "pick_first"),
            "does not know the grpc channel option grpc.lb_",
        ),
        ("127.0.0.1:1", ("grpc.keepalive_time_ms", "often"), "is a number"),
        ("xds:///greeter:1", ("grpc.enable_retries", 0), "does not know the addresses xds"),
        ("127.0.0.1", ("grpc.enable_retries", 0), "port"),
    ],
)
async def test_what_it_cannot_do_is_said_when_it_is_opened(address: str, option: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        async with connection(address, option):
            pass


async def test_it_calls_over_a_unix_socket(tmp_path: Any) -> None:
    async with ends() as made:
        server = await made.loop.create_unix_server(lambda: made.serve(Served, {}), str(tmp_path / "s"))
        async with connection(f"unix:{tmp_path}/s") as opened:
            assert await called(opened, b"here") == b"here"
        server.close()


async def test_closing_it_ends_its_calls_as_cancelled_here() -> None:
    class Held(End):
        def changed(self) -> None:
            pass

    async with ends(Held) as made, connection(at(made)) as opened:
        call = called(opened)
        await call.wait_for_connection()
        await opened.close()
        assert opened.cancelled_here(call)
        assert opened.state(True) is grpc.ChannelConnectivity.SHUTDOWN
