"""Bytes from strangers: whatever comes, a session ends with a reason or goes on, and holds nothing back."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import Any

import pytest

from pymicro_fast import Buffers, Stream

from .ends import OK, Connection, End
from .raw import SETTINGS, WINDOW_UPDATE, frame

SEEDS = range(60)


class Wire:
    """An asyncio transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close


class Served(End):
    """Answers what it understands, and resets some."""

    def changed(self) -> None:
        super().changed()
        while self.take() is not None:
            if not self.half_closed:
                self.send(b"y" * 100)
        if self.ended and not self.half_closed and not self.closed:
            if self.id % 8 == 7:
                self.reset()
            else:
                self.finish([OK, (b"why", b"because")])


class Machine:
    """A session and what it is connected to, turned by hand."""

    def __init__(self, accept: type[Stream] | None, **options: Any) -> None:
        loop = asyncio.get_running_loop()
        self.wire = Wire()
        self.session = Connection(loop, Buffers(65536), accept=accept, authority=b"here", **options)
        self.session.connection_made(self.wire)

    def feed(self, data: bytes) -> None:
        while data and not self.wire.closed:
            view = self.session.get_buffer(-1)
            count = min(len(data), len(view))
            view[:count] = data[:count]
            data = data[count:]
            self.session.buffer_updated(count)

    def turn(self) -> bytes:
        self.session._turn()  # type: ignore[attr-defined]
        written, self.wire.written = self.wire.written, b""
        return written

    def end(self) -> None:
        self.session.connection_lost(None)


def conversation() -> tuple[bytes, bytes]:
    """What a client and a server say to each other in some calls."""
    server, client = Machine(Served), Machine(None)
    sent, answered = client.turn(), server.turn()
    server.feed(sent)
    client.feed(answered)
    for number in range(6):
        stream = End()
        client.session.request(stream, b"/echo", 5.0, [(b"key", b"value" * number), (b"a-bin", b"AAE")])
        for _ in range(number):
            stream.send(b"x" * (number * 7000))
        if number % 2:
            stream.end()
        else:
            client.session.ping(b"12345678")
        more = client.turn()
        server.feed(more)
        back = server.turn()
        client.feed(back)
        sent += more
        answered += back
        if number == 4:
            stream.reset()
    for machine in (server, client):
        machine.end()
    return sent, answered


def frames(data: bytes) -> list[bytes]:
    """The frames in it; a client's first bytes are one."""
    found = []
    if data.startswith(b"PRI"):
        found.append(data[:24])
        data = data[24:]
    while data:
        length = 9 + int.from_bytes(data[:3])
        found.append(data[:length])
        data = data[length:]
    return found


def mutated(data: bytes, dice: random.Random) -> bytes:
    """The same frames, with some lost, doubled, swapped, or with other bytes."""
    parts = frames(data)
    for _ in range(dice.randint(1, 6)):
        place = dice.randrange(1, len(parts))
        what = dice.randrange(6)
        if what == 0:
            del parts[place]
        elif what == 1:
            parts.insert(place, parts[dice.randrange(1, len(parts))])
        elif what == 2:
            other = dice.randrange(1, len(parts))
            parts[place], parts[other] = parts[other], parts[place]
        elif what == 3:
            kind, flags, stream = dice.randrange(12), dice.randrange(256), dice.randrange(16)
            body = dice.randbytes(dice.choice((0, 4, 5, 8, 100)))
            head = len(body).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4)
            parts.insert(place, head + body)
        else:
            changed = bytearray(parts[place])
            # The length is left as it is, mostly: else the rest is one long frame.
            changed[dice.randrange(3 if len(changed) > 3 and what == 4 else 0, len(changed))] ^= (
                1 << dice.randrange(8)
            )
            parts[place] = bytes(changed)
        if len(parts) < 2:
            break
    return b"".join(parts)


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_server_lives_through_a_conversation_that_was_tampered_with(seed: int) -> None:
    dice = random.Random(seed)
    sent, _ = conversation()
    for _ in range(20):
        machine = Machine(Served, max_message=20_000, max_header_bytes=4000)
        data = mutated(sent, dice)
        while data and not machine.wire.closed:
            count = dice.choice((1, 9, 100, 5000, 100_000))
            machine.feed(data[:count])
            data = data[count:]
            if dice.random() < 0.5:
                machine.turn()
        machine.turn()
        machine.end()
        assert machine.session.open_streams == 0
        assert machine.session.queued == 0
        assert [told for told in machine.session.told if isinstance(told, Exception)] == []


async def test_answers_that_cross_the_cancellations_of_their_calls_end_no_connection() -> None:
    """nghttp2 calls each of their blocks of headers a glitch, and puts up with 10,000 of those."""
    client, server = Machine(None), Machine(Served)
    for _ in range(120):
        streams = [End() for _ in range(100)]
        for stream in streams:
            client.session.request(stream, b"/echo", 5.0, None)
            stream.send(b"x")
            stream.end()
        server.feed(client.turn())
        on_the_way = server.turn()
        for stream in streams:
            stream.reset()
        server.feed(client.turn())
        client.feed(on_the_way)
    assert (client.wire.closed, server.wire.closed) == (False, False)
    assert (client.session.reason, server.session.reason) == (None, None)
    client.end()
    server.end()


async def test_a_peer_that_breaks_a_rule_is_named_as_why_the_connection_ended() -> None:
    client = Machine(None)
    client.session.request(End(), b"/echo", 5.0, None)
    client.turn()
    client.feed(frame(SETTINGS) + frame(WINDOW_UPDATE, payload=bytes(4)))
    client.turn()
    assert client.wire.closed
    client.end()
    why = "WINDOW_UPDATE: window_size_increment == 0"
    assert client.session.reason == f"it was closed here: PROTOCOL_ERROR: {why}"


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_client_lives_through_a_conversation_that_was_tampered_with(seed: int) -> None:
    dice = random.Random(seed)
    _, answered = conversation()
    for _ in range(20):
        machine = Machine(None, max_message=20_000, max_header_bytes=4000)
        streams = []
        for number in range(6):
            stream = End()
            streams.append(stream)
            machine.session.request(stream, b"/echo", 5.0, None)
            stream.send(b"x" * (number * 7000))
            if number % 2:
                stream.end()
        machine.turn()
        data = mutated(b"PRI" + bytes(21) + answered, dice)[24:]
        while data and not machine.wire.closed:
            count = dice.choice((1, 9, 100, 5000, 100_000))
            machine.feed(data[:count])
            data = data[count:]
            for stream in streams:
                if dice.random() < 0.1:
                    stream.take()
                if dice.random() < 0.01:
                    stream.reset()
        machine.turn()
        machine.end()
        assert all(stream.closed for stream in streams)
        assert machine.session.queued == 0
        for stream in streams:
            while stream.take() is not None:
                pass


async def test_nothing_but_noise() -> None:
    dice = random.Random(0)
    for length in (1, 9, 24, 25, 1000, 100_000):
        for greeting in (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
            machine = Machine(Served)
            machine.feed(greeting + dice.randbytes(length))
            machine.turn()
            machine.end()


async def test_a_message_that_claims_to_be_large_costs_what_has_come_of_it() -> None:
    def request(stream: int) -> bytes:
        # :method POST, :scheme http, :path /, :authority x, and a DATA frame that begins a message of 4 MiB.
        block = b"\x83\x86\x84\x01\x01x"
        head = len(block).to_bytes(3) + b"\x01\x04" + stream.to_bytes(4) + block
        data = b"\x00\x00\x40\x00\x00x"
        return head + len(data).to_bytes(3) + b"\x00\x00" + stream.to_bytes(4) + data

    import tracemalloc

    machine = Machine(Served)
    machine.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04\x00" + bytes(4))
    machine.turn()
    gc.collect()
    tracemalloc.start()
    machine.feed(b"".join(request(2 * number + 1) for number in range(1000)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert machine.session.open_streams == 1000
    assert peak < 4 << 20
    machine.end()
