"""One open watch of the fake API server: what it sends, and how it can be made to misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from tests.fakes.kube_status import Refused, status_object
from tests.fakes.kube_store import KINDS, Change, Scope, Store

__all__ = ["Watch", "reset"]

Step = Callable[["Watch"], Any]


class _End(Exception):
    """The stream ends here, cleanly."""


class Watch:
    """A stream of events. Everything it sends goes through one queue, so the order is what one reads.

    Attributes:
        scope: What is watched.
        query: The parameters it was asked with.
        sent: Lines written so far.
        live: Whether the initial events are out and only changes follow.
        stuck: Once true nothing more is sent, not even its end.
    """

    def __init__(self, store: Store, scope: Scope, query: Mapping[str, str]) -> None:
        self.scope = scope
        self.query = query
        self.sent = 0
        self.live = False
        self.stuck = False
        self.bookmarks = query.get("allowWatchBookmarks") == "true"
        self._store = store
        self._after = 0
        self._queue: asyncio.Queue[Step | bytes] = asyncio.Queue()
        self._response: web.StreamResponse | None = None
        self._request: web.BaseRequest | None = None

    def start(self, *, streaming_list: bool) -> None:
        """Queue what there is, and follow the changes from then on.

        Raises:
            Refused: The version is no number.
        """
        text = self.query.get("resourceVersion", "")
        if not text.isdigit() and text:
            raise Refused(400, f'resourceVersion: Invalid value: "{text}": must be a number')
        version = int(text or 0)
        if version == 0 or streaming_list:
            for one in self._store.list(self.scope):
                self.put(line("ADDED", one.json))
            # What was there is told; changes follow from here.
            self._after = self._store.version
            if streaming_list and self.bookmarks:
                self.bookmark(initial_events_end=True)
        elif version < self._store.oldest:
            # The real server says it inside the stream, with HTTP status 200.
            message = f"too old resource version: {version} ({self._store.version})"
            self.error(status_object(410, message))
            return
        else:
            # A version from the future is not noticed: changes are skipped up to it.
            self._after = version
            for change in self._store.since(version):
                self.tell(change)
        self.put(Watch._go_live)
        self._store.listeners.append(self.tell)

    def stop(self) -> None:
        if self.tell in self._store.listeners:
            self._store.listeners.remove(self.tell)

    def _go_live(self) -> None:
        self.live = True

    # What may be queued

    def put(self, step: Step | bytes) -> None:
        self._queue.put_nowait(step)

    def shorten(self, count: int) -> None:
        """Of what is still to be sent, keep only the first `count`."""
        steps = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        for step in steps[:count]:
            self.put(step)

    def tell(self, change: Change) -> None:
        if change.version <= self._after:
            return
        seen = change.seen_by(self.scope)
        if seen is not None:
            self.put(line(seen[0], seen[1].json))

    def bookmark(self, *, initial_events_end: bool = False) -> None:
        """An object with nothing but a version; only for those who asked for bookmarks.

        The real server's cache has none for a watch that started at the version in force
        (seen: nothing for 100 s), so one of a quiet resource may never get one.
        """
        if not self.bookmarks or (self._store.version <= self._after and not initial_events_end):
            return
        kind = KINDS[self.scope.plural]
        metadata: dict[str, Any] = {
            "resourceVersion": str(self._store.version),
            "creationTimestamp": None,
        }
        if initial_events_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        obj: dict[str, Any] = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
        if kind.plural == "pods":
            obj |= {"spec": {"containers": None}, "status": {}}
        self.put(line("BOOKMARK", json.dumps(obj).encode()))

    def error(self, status: dict[str, Any]) -> None:
        """An ERROR event, after which the real server ends the stream."""
        self.put(line("ERROR", json.dumps(status).encode()))
        self.end()

    def end(self) -> None:
        """A clean end: the last chunk."""

        def end(_: Watch) -> None:
            raise _End

        self.put(end)

    def cut(self, rest: bytes = b"") -> None:
        """The connection breaks, after `rest` (a part of a line, say)."""

        async def cut(_: Watch) -> None:
            await self._write(rest)
            if self._request is not None and self._request.transport is not None:
                reset(self._request.transport)
            raise _End

        self.put(cut)

    # Sending

    async def serve(
        self, request: web.BaseRequest, gate: Callable[[Watch], Any], split: Callable[[], int]
    ) -> web.StreamResponse:
        """Send until the end. `gate` is awaited around each step; `split` is the size of pieces, 0: whole."""
        self._request = request
        response = self._response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        seconds = float(self.query.get("timeoutSeconds") or 1800)
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(seconds, self.end)]
        if seconds > 2:
            # Real servers send a last bookmark 2 s before the end (cacher, nextBookmarkTime).
            timers.append(loop.call_later(seconds - 2, self.bookmark))
        try:
            while True:
                step = await self._queue.get()
                await gate(self)
                if isinstance(step, bytes):
                    await self._send(step, split())
                    self.sent += 1
                else:
                    result = step(self)
                    if result is not None:
                        await result
                # The gate's owner tells whoever waits for `sent` or `live`.
                await gate(self)
        except (_End, ConnectionResetError):
            return response
        finally:
            for timer in timers:
                timer.cancel()

    async def _send(self, data: bytes, size: int) -> None:
        if not size:
            await self._write(data)
            return
        for at in range(0, len(data), size):
            await self._write(data[at : at + size])
            # A turn of the loop for the reader, which thus gets it in pieces.
            await asyncio.sleep(0)

    async def _write(self, data: bytes) -> None:
        if data and self._response is not None:
            await self._response.write(data)


def line(kind: str, obj: bytes) -> bytes:
    """One event as it goes over the wire."""
    return b'{"type":"' + kind.encode() + b'","object":' + obj + b"}\n"


def reset(transport: asyncio.Transport) -> None:
    """Break a connection with an RST, at once; a mere abort sends a FIN. What was written is out already."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
