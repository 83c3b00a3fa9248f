"""The requests of a stream, as a handler reads them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from grpc.aio import EOF

__all__ = ["ReceivedRequests", "receive"]

Read = Callable[[], Awaitable[Any]]
Parse = Callable[[bytes], Any]


async def receive(read: Read, parse: Parse) -> Any:
    """The next request, parsed; EOF after the last."""
    raw = await read()
    return raw if raw is EOF else parse(raw)


class ReceivedRequests:
    """Iterates the requests of a call. It is no generator: a handler may drop it unfinished.

    Args:
        read: The call's.
    """

    __slots__ = ("_ended", "_parse", "_read")

    def __init__(self, read: Read, parse: Parse) -> None:
        self._read = read
        self._parse = parse
        self._ended = False

    def __aiter__(self) -> ReceivedRequests:
        return self

    async def __anext__(self) -> Any:
        if not self._ended:
            raw = await self._read()
            if raw is not EOF:
                return self._parse(raw)
            self._ended = True
        raise StopAsyncIteration
