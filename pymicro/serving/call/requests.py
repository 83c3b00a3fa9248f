"""The requests of a stream, as a handler iterates them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pymicro.rpc.grpcio import let_events_arrive

__all__ = ["Requests"]


class Requests:
    """Iterates the requests that grpc receives. It is no generator: a handler may drop it unfinished."""

    __slots__ = ("_requests", "_source")

    def __init__(self, source: Any) -> None:
        self._source = source
        self._requests: AsyncIterator[Any] | None = None

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> Any:
        if self._requests is None:
            self._requests = aiter(self._source)
        try:
            return await anext(self._requests)
        except StopAsyncIteration:
            await let_events_arrive()  # this may be a broken stream rather than an end
            raise
