"""HTTP/2 by hand, for peers that keep to no rule: frames out and in (RFC 9113), over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9
ACK = END_STREAM = 1
END_HEADERS = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ENHANCE_YOUR_CALM = 11


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def setting(name: int, value: int) -> bytes:
    return name.to_bytes(2) + value.to_bytes(4)


def window(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4))


def _text(value: bytes) -> bytes:
    assert len(value) < 127
    return bytes([len(value)]) + value


def headers(stream: int, *pairs: tuple[bytes, bytes], last: bool = False) -> bytes:
    """A block of headers, each spelt out (RFC 7541)."""
    spelt = b"".join([b"\x00" + _text(name) + _text(value) for name, value in pairs])
    return frame(HEADERS, END_HEADERS | (END_STREAM if last else 0), stream, spelt)


def message(stream: int, data: bytes, flag: int = 0, *, last: bool = False) -> bytes:
    """A frame with one message of gRPC."""
    prefix = bytes((flag,)) + len(data).to_bytes(4)
    return frame(DATA, END_STREAM if last else 0, stream, prefix + data)


def block(path: bytes) -> bytes:
    """A request's headers, each spelt out (RFC 7541): POST, http, :path, :authority, gRPC's own two."""
    fields = b"\x83\x86\x04" + _text(path) + b"\x01" + _text(b"x")
    return fields + b"\x0f\x10" + _text(b"application/grpc") + b"\x00" + _text(b"te") + _text(b"trailers")


def request(stream: int, path: bytes, message: bytes | None = None) -> bytes:
    """A call; with its one message, and the end of it, if that is given."""
    made = frame(HEADERS, END_HEADERS, stream, block(path))
    if message is not None:
        made += frame(DATA, END_STREAM, stream, b"\0" + len(message).to_bytes(4) + message)
    return made


class Raw:
    """A connection's other end.

    Attributes:
        got: The frames that have come: kind, flags, stream, payload.
        ended: The peer has closed it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.got: list[tuple[int, int, int, bytes]] = []
        self.ended = asyncio.Event()
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3]))
                self.got.append((head[3], head[4], int.from_bytes(head[5:]), payload))
                self._news.set()
        self.ended.set()
        self._news.set()

    async def until(self, kind: int, stream: int | None = None) -> bytes:
        """The payload of the first frame of a kind, once it is there."""
        async with asyncio.timeout(20):
            while True:
                self._news.clear()
                for found, _, where, payload in self.got:
                    if found == kind and stream in (None, where):
                        return payload
                assert not self.ended.is_set(), f"the peer has closed; it sent {self.got[-5:]}"
                await self._news.wait()

    async def answered(self, stream: int) -> None:
        """Until a call has its headers, or there will be none."""
        async with asyncio.timeout(20):
            while not self.ended.is_set() and not any(
                kind == GOAWAY or (kind, where) == (HEADERS, stream) for kind, _, where, _ in self.got
            ):
                self._news.clear()
                await self._news.wait()

    def received(self, stream: int) -> int:
        """Bytes of DATA that have come on a stream."""
        return sum(len(payload) for kind, _, where, payload in self.got if kind == DATA and where == stream)

    def goaways(self) -> Iterator[int]:
        """The codes of the GOAWAYs that have come."""
        for kind, _, _, payload in self.got:
            if kind == GOAWAY:
                yield int.from_bytes(payload[4:8])

    async def flood(self, piece: bytes, most: int) -> None:
        """Send a piece again and again, until the peer has closed the connection, or so many bytes went."""
        some = piece * max(1, 65536 // len(piece))
        with contextlib.suppress(OSError):
            for _ in range(most // len(some)):
                if self.ended.is_set():
                    return
                self.writer.write(some)
                await self.writer.drain()

    async def close(self) -> None:
        self.writer.close()
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await self._reading
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@asynccontextmanager
async def connected(port: int, settings: bytes = b"") -> AsyncIterator[Raw]:
    """A client's end, greeted."""
    raw = Raw(*await asyncio.open_connection("127.0.0.1", port))
    raw.writer.write(PREFACE + frame(SETTINGS, 0, 0, settings))
    try:
        yield raw
    finally:
        await raw.close()


@asynccontextmanager
async def answering(answer: Callable[[int], bytes]) -> AsyncIterator[int]:
    """A server that answers each call with these bytes, once its headers are there; its port.

    Args:
        answer: What it sends, by the number of the stream.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            await reader.readexactly(len(PREFACE))
            writer.write(frame(SETTINGS))
            while True:
                head = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(head[:3]))
                if head[3] == SETTINGS and not head[4] & ACK:
                    writer.write(frame(SETTINGS, ACK))
                elif head[3] == HEADERS:
                    writer.write(answer(int.from_bytes(head[5:])))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
