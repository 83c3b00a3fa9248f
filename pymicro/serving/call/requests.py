"""The requests of a stream, as a handler reads them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from grpc.aio import EOF

__all__ = ["Aside", "ReceivedRequests", "receive"]

Read = Callable[[], Awaitable[Any]]
Parse = Callable[[bytes], Any]
Aside = Callable[[bytes], Awaitable[Any]]


async def receive(read: Read, parse: Parse, aside: Aside | None = None) -> Any:
    """The next request, parsed; EOF after the last. Arguments as for `ReceivedRequests`."""
    raw = await read()
    if raw is EOF:
        return raw
    return parse(raw) if aside is None else await aside(raw)


class ReceivedRequests:
    """Iterates the requests of a call. It is no generator: a handler may drop it unfinished.

    Args:
        read: The call's.
        parse: Parses a request.
        aside: Parses one where that may take long, in place of `parse`.
    """

    __slots__ = ("_aside", "_ended", "_parse", "_read")

    def __init__(self, read: Read, parse: Parse, aside: Aside | None = None) -> None:
        self._read = read
        self._parse = parse
        self._aside = aside
        self._ended = False

    def __aiter__(self) -> ReceivedRequests:
        return self

    async def __anext__(self) -> Any:
        if not self._ended:
            raw = await self._read()
            if raw is not EOF:
                return self._parse(raw) if self._aside is None else await self._aside(raw)
            self._ended = True
        raise StopAsyncIteration
