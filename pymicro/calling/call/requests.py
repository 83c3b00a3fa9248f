"""A user's iterator of requests, sent over one attempt after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Any

from grpc.aio import AioRpcError

from pymicro.calling.call.state import ENDED, WAITING
from pymicro.rpc.grpcio import EndedBefore

if TYPE_CHECKING:
    from pymicro.calling.call.state import CallState

__all__ = ["KEEP", "Requests", "asynchronous"]

# Requests that are kept. If a call is refused and no handler ran, it has seldom sent more than
# this by then. A longer stream must not pay with memory for what is rare.
KEEP = 4


class Requests:
    """Sends what an iterator gives, and sends the first requests again if there is another attempt.

    It asks for a request as soon as the network takes the next one. If the iterator raises, or
    gives what cannot be serialized, that ends the call: half an upload must not pass for a whole.

    Args:
        source: What the user gave: an async iterable or a plain one.
        keep: Whether another attempt may follow.
    """

    def __init__(self, source: Any, keep: bool) -> None:
        self._source = source
        self._kept: list[bytes] | None = [] if keep else None
        self._count = 0  # requests that the source has given
        self._complete = False
        # What repeats the first requests, where to, and how far it has come.
        self._again: asyncio.Task[None] | None = None
        self._network: Any = None
        self._repeated = 0
        self._closed = False

    @property
    def from_start(self) -> bool:
        """Whether another attempt can be sent every request."""
        return self._kept is not None

    def send_again(self, network: Any) -> None:
        """There is another attempt: send it what the one before was sent."""
        if self._again is not None:
            self._again.cancel()
        self._network, self._repeated, self._closed = network, 0, False
        self._again = asyncio.get_running_loop().create_task(self._repeat(network))

    async def _repeat(self, network: Any) -> None:
        kept = self._kept or []
        try:
            while self._repeated < len(kept):  # it may grow meanwhile
                await network.write(kept[self._repeated])
                self._repeated += 1
            if self._complete:
                await network.done_writing()
                self._closed = True
        except (AioRpcError, EndedBefore, asyncio.InvalidStateError):
            pass  # this attempt has ended as well, and its end says why

    async def run(self, call: CallState) -> None:
        """Send all requests; returns when there are no more, or the call has ended."""
        try:
            async for request in asynchronous(self._source):
                data = call.called.method.serialize(request)
                self._count += 1
                if self._kept is not None:
                    if len(self._kept) < KEEP:
                        self._kept.append(data)
                    else:
                        self._kept = None
                if not await self._send(call, data):
                    return
            self._complete = True
            await self._send(call, None)
        except asyncio.CancelledError as exc:
            call.fail(exc)
            raise
        except Exception as exc:
            call.fail(exc)
        finally:
            if call.phase is ENDED and self._again is not None:
                self._again.cancel()

    async def _send(self, call: CallState, data: bytes | None) -> bool:
        """Send one request, or the end of them; False if the call has ended."""
        while True:
            while call.phase is WAITING:
                await call.change()
            if call.phase is ENDED:
                return False
            network = call.inner
            if self._again is not None and not self._again.done():
                await asyncio.wait({self._again})
                continue
            # What repeats the first requests may have sent this one too.
            if network is self._network and (self._closed if data is None else self._repeated >= self._count):
                return True
            try:
                if data is not None:
                    await network.write(data)
                else:
                    await network.done_writing()
                return True
            except (AioRpcError, EndedBefore, asyncio.InvalidStateError):
                # If there is another attempt, `send_again` has been told.
                await call.settled(network)


def asynchronous(messages: Any) -> AsyncIterable[Any]:
    """The messages of an iterable of either kind: a stub takes plain ones as well."""
    return messages if hasattr(messages, "__aiter__") else _one_by_one(messages)


async def _one_by_one(messages: Any) -> AsyncIterator[Any]:
    for message in messages:
        yield message
