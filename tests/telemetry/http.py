"""A peer of the admin port that sends what it likes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

# Seconds: only a failure waits so long.
PATIENCE = 20.0


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        headers: By name in small letters.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Peer:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self, *, body: bool = True) -> Reply:
        """The next answer."""
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.rstrip("\r\n").split("\r\n")
            headers = {name.lower(): text for name, _, text in (line.partition(": ") for line in lines)}
            sent = await self.reader.readexactly(int(headers["content-length"])) if body else b""
        return Reply(int(first.split(" ")[1]), headers, sent)

    async def ended(self) -> bytes:
        """What comes until the other side ends the connection."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


@asynccontextmanager
async def connected(port: int, host: str = "127.0.0.1") -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


async def get(port: int, path: str, **headers: str) -> Reply:
    """One page."""
    async with connected(port) as peer:
        lines = {"Host": "127.0.0.1", "Connection": "close", **headers}
        peer.send(
            f"GET {path} HTTP/1.1\r\n".encode()
            + "".join(f"{name}: {text}\r\n" for name, text in lines.items()).encode()
            + b"\r\n"
        )
        return await peer.reply()
