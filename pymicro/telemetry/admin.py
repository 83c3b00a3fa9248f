"""The admin port: what a process says of itself to probes, scrapers and operators.

It knows nothing of services and clients: what it shows comes from functions that it is given.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from pymicro.base.tasks import Tasks
from pymicro.base.turns import Turns
from pymicro.nodes.address import join_address
from pymicro.telemetry.http_server import HttpAnswer, HttpLimits, HttpRequest, HttpServer

__all__ = ["AdminPort", "Probe", "WritePage"]

# Seconds of the event loop that a page may take before calls get their turn.
SLICE = 0.001

# Why not, a line each; nothing if all is well.
Probe = Callable[[], Sequence[str]]
# Takes the header Accept; gives a page's content type and its pieces, each made in a short time.
WritePage = Callable[[str], tuple[str, AsyncIterator[bytes]]]


class AdminPort:
    """Serves `/livez`, `/startupz`, `/readyz` and pages, while the context is open.

    Args:
        listening: The socket; closed at the end.
        title: What this process is, for people.
        live: Whether the process works at all.
        started: Whether its start is over.
        ready: Whether it should get calls.
        pages: By path: a page, or the sentence that says why it is not there.
        limits: How much strangers may cost.
    """

    def __init__(
        self,
        listening: socket.socket,
        title: str,
        *,
        live: Probe,
        started: Probe,
        ready: Probe,
        pages: Mapping[str, WritePage | str],
        limits: HttpLimits | None = None,
    ) -> None:
        host, port = listening.getsockname()[:2]
        self.bound: tuple[str, int] = (host, port)
        self._title = title
        self._probes = {"/livez": live, "/startupz": started, "/readyz": ready}
        self._pages = dict(pages)
        self._server = HttpServer(listening, self._answer, limits)
        self._tasks = Tasks("pages of the admin port")
        self._made: dict[tuple[str, str], asyncio.Task[bytes | Exception]] = {}
        # Many who ask for pages at once make each other wait, and not the calls.
        self._one = asyncio.Lock()

    @property
    def address(self) -> str:
        """`host:port` on which it listens."""
        return join_address(*self.bound)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self._server.connections

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        await self._server.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End every connection at once, and close the socket."""
        try:
            await self._server.__aexit__(kind, exc, traceback)
        finally:
            await self._tasks.__aexit__(kind, exc, traceback)

    async def _answer(self, request: HttpRequest) -> HttpAnswer:
        path = request.path
        probe = self._probes.get(path)
        if probe is not None:
            why = probe()
            return HttpAnswer(503 if why else 200, _lines(why or ["ok"]))
        page = self._pages.get(path)
        if isinstance(page, str):
            return HttpAnswer(404, _lines([page]))
        if page is not None:
            content_type, body = await self._page(path, page, request.headers.get("accept", ""))
            return HttpAnswer(200, body, content_type)
        there = [*self._probes, *(path for path, page in self._pages.items() if not isinstance(page, str))]
        if path == "/":
            return HttpAnswer(200, _lines([self._title, "", *there]))
        return HttpAnswer(404, _lines(["there is no such page; there are:", *there]))

    async def _page(self, path: str, write: WritePage, accept: str) -> tuple[str, bytes]:
        """A page, made once for all who ask for it while it is made."""
        content_type, pieces = write(accept)
        key = path, content_type
        making = self._made.get(key)
        if making is None:
            making = self._made[key] = self._tasks.start(self._make(key, pieces), path)
        # Not ended by the end of one who asked: others wait too.
        await asyncio.wait([making])
        made = making.result()
        if isinstance(made, Exception):
            raise made
        return content_type, made

    async def _make(self, key: tuple[str, str], pieces: AsyncIterator[bytes]) -> bytes | Exception:
        try:
            async with self._one:
                turns = Turns(SLICE, rest=True)
                parts = []
                async for piece in pieces:
                    parts.append(piece)
                    await turns.give()
                return b"".join(parts)
        except Exception as exc:  # those who asked say so, and not each of them in the log
            return exc
        finally:
            del self._made[key]


def _lines(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
