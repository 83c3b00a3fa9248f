"""The engine: bytes that come and go, what is told of them, and what is not held on to."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from pymicro_fast import Session, Stream, error_name

from .ends import FIXED, OK, End, Served, echoed, ends, pair, started

CANCEL = 8
REFUSED_STREAM = 7
# The longest timeout that can be written.
LONGEST = 99999999 * 3600.0


@pytest.mark.parametrize("size", [0, 1, 64, 16_378, 16_384, 65_531, 65_536, 131_073, 1 << 20, 4 << 20])
async def test_a_message_of_any_size_comes_back(size: int) -> None:
    async with pair() as (client, server):
        message = bytes(range(256)) * (size // 256 + 1)
        assert await echoed(client, message[:size]) == message[:size]
        assert client.queued == server.queued == 0


async def test_a_stream_of_messages_keeps_their_order_whatever_their_sizes() -> None:
    sizes = [0, 3, 70_000, 1, 16_384, 0, 0, 300_000, 5, *range(400)]

    class Source(Served):
        async def serve(self) -> None:
            for size in sizes:
                await self.write(bytes([size % 251]) * size)
            self.finish([OK])

    async with pair(Source) as (client, _):
        stream = started(client)
        for size in sizes:
            assert await stream.read() == bytes([size % 251]) * size
        assert await stream.read() is None
        assert stream.grpc_status == 0


async def test_headers_arrive_and_the_wires_own_are_read() -> None:
    seen: list[Stream] = []

    class Answer(End):
        def changed(self) -> None:
            if not seen:
                return
            if self.initial is not None and not self.half_closed:
                seen.append(self)
                self.finish([(b"grpc-status", b"5"), (b"grpc-message", b"nobody"), (b"why", b"gone")])

    async with ends(Answer) as made:
        client = await made.connect()
        seen.append(Stream())
        stream = started(client, b"/a/b", [(b"who", b"me"), (b"data-bin", b"AAE")], 1.5)
        await stream.until(lambda: stream.closed)
        asked = seen[1]
        assert (asked.method, asked.path, asked.authority, asked.timeout) == (b"POST", b"/a/b", b"here", 1.5)
        assert asked.initial == [("who", "me"), ("data-bin", b"AAE")]
        assert (stream.http_status, stream.grpc_status, stream.message) == (200, 5, b"nobody")
        assert (stream.initial, stream.trailing, stream.error) == ([("why", "gone")], None, 0)
        client.abort("over")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1n", 1e-9), (b"20u", 2e-5), (b"3m", 0.003), (b"4S", 4), (b"5M", 300), (b"99999999H", LONGEST),
        (b"", -2), (b"S", -2), (b"123456789S", -2), (b"-1S", -2), (b"1 S", -2), (b"1s", -2), (b"1.5S", -2),
    ],
)  # fmt: skip
async def test_a_timeout_is_read_strictly(text: bytes, seconds: float) -> None:
    seen: list[float] = []

    class Answer(End):
        def changed(self) -> None:
            if self.initial is not None and not self.half_closed:
                seen.append(self.timeout)
                self.finish([OK])

    async with ends(Answer) as made:
        client = await made.connect()
        stream = started(client, pairs=[(b"grpc-timeout", text)])
        await stream.until(lambda: stream.closed)
        assert seen == [pytest.approx(seconds)]
        client.abort("over")


@pytest.mark.parametrize("seconds", [0.0, 1e-7, 0.0015, 5, 99.9999, 101, 86_400, 1e6, 1e9, 1e12])
async def test_a_timeout_on_the_wire_is_never_less_than_was_asked_for(seconds: float) -> None:
    seen: list[float] = []

    class Answer(End):
        def changed(self) -> None:
            if self.initial is not None and not self.half_closed:
                seen.append(self.timeout)
                self.finish([OK])

    async with ends(Answer) as made:
        client = await made.connect()
        stream = started(client, timeout=seconds)
        await stream.until(lambda: stream.closed)
        # Of what takes more than 11,000 years the largest number is told.
        assert min(seconds, LONGEST) <= seen[0] <= seconds * 1.001 + 1e-6
        client.abort("over")


async def test_who_does_not_read_holds_up_the_sender_and_only_that_stream() -> None:
    class Unread(Served):
        async def serve(self) -> None:
            if self.path == b"/unread":
                await self.until(lambda: self.closed)
            else:
                await super().serve()

    async with pair(Unread) as (client, _):
        stream = started(client, b"/unread")
        message = b"x" * 10_000
        for _ in range(2000):
            if not stream.room():
                await echoed(client, b"more may go now")
                if not stream.room():
                    break
            stream.send(message)
        assert not stream.room()
        assert 0 < stream.queued < 65_536 + len(message) + 5
        assert await echoed(client, b"y" * 100_000) == b"y" * 100_000
        stream.reset()
        assert (client.queued, stream.queued, stream.error) == (0, 0, CANCEL)


async def test_large_messages_that_are_not_taken_hold_up_others_and_memory_is_bounded() -> None:
    class Unread(Served):
        async def serve(self) -> None:
            await gate.wait()
            await super().serve()

    gate = asyncio.Event()
    async with pair(Unread, max_growing=1_000_000) as (client, server):
        message = b"x" * 300_000
        streams = [started(client) for _ in range(8)]
        for stream in streams:
            stream.send(message)
        for _ in range(100):  # round trips: what can come has come
            client.answered.clear()
            client.ping(b"anybody?")
            await client.answered.wait()
        assert server.growing == 900_000
        streams.pop().reset()  # one that waits
        gate.set()
        for stream in streams:
            assert await stream.read() == message
            stream.end()
            await stream.until(lambda stream=stream: stream.closed)
        assert server.growing == client.growing == 0
        lost = started(client)
        lost.send(message)
        await lost.until(lambda: lost.available)
        lost.reset()
        assert client.growing == 0


async def test_trailers_that_nobody_else_holds_arrive_as_they_were_given() -> None:
    class Answer(End):
        def changed(self) -> None:
            if self.initial is not None and not self.half_closed:
                self.send(b"first")
                # Made here: with this list, nothing keeps the values alive.
                self.finish([(b"grpc-status", b"7"), (b"grpc-message", b"x" * len(self.path or b"") * 100)])

    async with pair(Answer) as (client, _):
        for length in range(1, 60):
            stream = started(client, b"/" * length)
            await stream.until(lambda stream=stream: stream.closed)
            assert (stream.grpc_status, stream.message) == (7, b"x" * 100 * length)


async def test_the_window_grows_for_a_reader_that_keeps_up() -> None:
    class Source(Served):
        async def serve(self) -> None:
            for _ in range(400):
                await self.write(b"x" * 10_000)
            self.finish([OK])

    async with pair(Source) as (client, _):
        stream = started(client)
        most = 0
        for _ in range(400):
            assert len(await stream.read() or b"") == 10_000
            most = max(most, client.grown)
        assert most > 131_072
        await stream.until(lambda: stream.closed)
        assert client.grown == 0


async def test_a_message_above_the_limit_is_not_received() -> None:
    async with pair(client={"max_message": 1000}) as (client, _):
        stream = started(client)
        stream.send(b"x" * 1001)
        await stream.until(lambda: stream.excess > 0)
        assert (stream.excess, stream.take()) == (1001, None)
        stream.reset()
        assert await echoed(client, b"y" * 1000) == b"y" * 1000


async def test_headers_above_the_limit_are_told_and_not_kept() -> None:
    seen: list[Any] = []

    class Answer(End):
        def changed(self) -> None:
            if self.initial is not None and not self.half_closed:
                seen.append((self.oversized, self.initial))
                self.finish([OK])

    async with ends(Answer, max_header_bytes=2000) as made:
        client = await made.connect()
        for pairs in ([(b"big", b"x" * 3000)], [(b"small", b"y")]):
            stream = started(client, pairs=pairs)
            await stream.until(lambda stream=stream: stream.closed)  # type: ignore[misc]
        assert seen == [(True, []), (False, [("small", "y")])]
        client.abort("over")


async def test_a_compressed_message_is_inflated_when_it_is_taken() -> None:
    async with pair() as (client, _):
        stream = started(client)
        stream.send(b"small", compressed=True)
        assert await stream.read() == b"inflated small"


async def test_a_reset_at_any_moment_leaves_nothing() -> None:
    async with pair() as (client, server):
        for turn in range(300):
            stream = started(client)
            stream.send(b"x" * (turn * 100))
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            stream.reset()
            assert (stream.closed, stream.error) == (True, CANCEL)
        assert await echoed(client, b"still here") == b"still here"
        assert (client.open_streams, client.queued, server.open_streams) == (0, 0, 0)


async def test_more_resets_than_an_attack_would_need_end_no_connection() -> None:
    async with pair() as (client, server):
        for number in range(3000):  # nghttp2's own limit is 1,000, and 33 more a second
            stream = started(client)
            stream.send(b"x")
            if number % 10 == 0:
                assert await stream.read() == b"x"
            client._turn()  # type: ignore[attr-defined] # so that the stream is really opened
            stream.reset()
        assert await echoed(client, b"still here") == b"still here"
        assert (client.reason, server.reason) == (None, None)


async def test_streams_are_let_go_when_they_have_ended() -> None:
    async with pair() as (client, server):
        ended = []
        for _ in range(20):
            stream = started(client)
            stream.send(b"x")
            stream.end()
            await stream.until(lambda stream=stream: stream.closed)  # type: ignore[misc]
            ended.append(weakref.ref(stream))
            dropped = started(client)
            dropped.send(b"y")
            dropped.reset()
            ended.append(weakref.ref(dropped))
        del stream, dropped
        await echoed(client, b"")
        gc.collect()
        assert not [one for one in ended if one() is not None]
        assert server.open_streams == 0


async def test_the_status_may_come_before_the_requests_end() -> None:
    class Early(End):
        def changed(self) -> None:
            if self.initial is not None and not self.half_closed:
                self.finish([(b"grpc-status", b"3")])

    async with ends(Early) as made:
        client = await made.connect()
        stream = started(client)
        stream.send(b"x")
        await stream.until(lambda: stream.closed)
        assert (stream.ended, stream.grpc_status, stream.error) == (True, 3, 0)
        client.abort("over")


async def test_a_goaway_is_told_before_the_streams_that_it_refuses() -> None:
    async with pair() as (client, server):
        below, above = started(client), started(client)
        below.send(b"x")
        above.send(b"y")
        assert await below.read() == b"x"
        assert await above.read() == b"y"
        told: list[int] = []
        above.changed = lambda: told.append(len(client.told))  # type: ignore[method-assign]
        server.goaway(below.id, 0, b"why")
        below.end()
        await below.until(lambda: below.ended)
        assert (above.error, below.grpc_status) == (REFUSED_STREAM, 0)
        assert client.told[-1] == (below.id, 0, b"why")
        assert told == [len(client.told)]


async def test_a_lost_connection_ends_its_streams() -> None:
    async with pair() as (client, server):
        stream = started(client)
        stream.send(b"x")
        assert await stream.read() == b"x"
        server.abort("on purpose")
        await stream.until(lambda: stream.closed)
        assert stream.error == -2
        assert not client.usable
        with pytest.raises(ConnectionError, match="lost"):
            started(client)


async def test_a_ping_is_answered() -> None:
    async with pair() as (client, _):
        client.ping(b"12345678")
        await echoed(client, b"")
        assert b"12345678" in client.told


async def test_what_a_hook_raises_resets_its_stream_and_no_other() -> None:
    class Broken(Served):
        def changed(self) -> None:
            if self.path == b"/broken":
                raise LookupError("on purpose")
            super().changed()

    async with pair(Broken) as (client, server):
        stream = started(client, b"/broken")
        stream.send(b"x")
        await stream.until(lambda: stream.closed)
        assert error_name(stream.error) == "INTERNAL_ERROR"
        assert [str(told) for told in server.told if isinstance(told, LookupError)] == ["on purpose"]
        assert await echoed(client, b"y") == b"y"


async def test_what_fails_while_nghttp2_runs_ends_the_connection_with_that_reason() -> None:
    class Impossible(Served):
        def __new__(cls) -> Any:
            raise LookupError("on purpose")

    async with ends(Impossible) as made:
        client = await made.connect()
        stream = started(client)
        stream.send(b"x")
        await stream.until(lambda: stream.closed)
        reason = await made.served[0].gone
        assert isinstance(reason, LookupError)
        await client.gone


async def test_a_stranger_is_sent_away() -> None:
    async with ends() as made:
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
        async with asyncio.timeout(10):
            await reader.read()
            assert "magic" in str(await made.served[0].gone)
        writer.close()


async def test_opens_with_resets_in_one_packet_start_nothing() -> None:
    begun: list[Stream] = []

    class Counted(Served):
        def changed(self) -> None:
            if not self.closed:
                begun.append(self)
            super().changed()

    async with ends(Counted) as made:
        client = await made.connect()
        first = started(client)
        first.end()
        await first.until(lambda: first.ended)
        del begun[:]
        for _ in range(3000):
            stream = started(client)
            stream.send(b"x")
            client._turn()  # type: ignore[attr-defined] # so that HEADERS really go out
            stream.reset()
        last = started(client)
        last.end()
        await last.until(lambda: last.ended)
        assert len(begun) < 3000
        assert made.served[0].open_streams == 0
        client.abort("over")


async def test_a_session_that_never_had_a_connection_can_be_dropped() -> None:
    session = Session(asyncio.get_running_loop(), (await _buffers()), fixed=FIXED)
    session.ping(b"12345678")
    session.terminate("over")
    with pytest.raises(ConnectionError):
        session.request(End(), b"/", -1, None)


async def _buffers() -> Any:
    from pymicro_fast import Buffers

    return Buffers(4096)
