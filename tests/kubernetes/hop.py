"""Something between a client and an API server: a proxy, or a balancer that cuts what is idle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

__all__ = ["hop"]


@contextlib.asynccontextmanager
async def hop(url: str, *, proxy: bool = False, cuts: float = 0.0) -> AsyncIterator[str]:
    """Passes connections on; its address as a URL of plain HTTP.

    Args:
        url: The server to which they go.
        proxy: Whether it is an HTTP proxy, for which every name is that server.
        cuts: Seconds without a byte after which it ends a connection; 0 for never.
    """
    target = urlsplit(url)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if proxy:
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                there, back = await asyncio.open_connection(target.hostname, target.port)
                passes = [asyncio.create_task(carry(reader, back)), asyncio.create_task(carry(there, writer))]
                try:
                    await asyncio.wait(passes, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for one in passes:
                        one.cancel()
                    await asyncio.gather(*passes, return_exceptions=True)
                    await closed(back)
        finally:
            await closed(writer)

    async def closed(writer: asyncio.StreamWriter) -> None:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(cuts or None):
                chunk = await reader.read(65536)
            if not chunk:
                return
            writer.write(chunk)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
