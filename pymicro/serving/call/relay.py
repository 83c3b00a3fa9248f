"""From written responses to iterated ones.

Foreign interceptors iterate a response stream. A handler that writes to its
context, or runs under an interceptor of ours, pushes responses instead. A task
and this hand-over connect the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from grpc.aio import UsageError

from pymicro.rpc.grpcio import CallerGone

__all__ = ["Relay"]


class Relay:
    """Hands messages one by one from the task that writes to the task that iterates.

    `put` returns when the reader asks for the next message. So a slow caller slows
    the writer down, as it does without a relay.
    """

    def __init__(self) -> None:
        self._offer: tuple[Any, asyncio.Future[None]] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._abandoned = False

    async def put(self, message: Any) -> None:
        """Hand over one message and wait until the reader has taken it.

        Raises:
            CallerGone: Nobody reads any more, as grpc's own `write` says it.
        """
        if self._abandoned:
            raise CallerGone("the call has ended: nobody reads what is written")
        if self._offer is not None:
            raise UsageError("one write at a time: await the last one first")
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        offer = self._offer = message, taken
        self._wake_reader()
        try:
            await taken
        finally:
            if self._offer is offer:
                self._offer = None

    async def messages(self, writer: Coroutine[Any, Any, None], name: str) -> AsyncGenerator[Any, None]:
        """Run `writer` in a task and yield what it puts; end or raise as the writer does."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(_caught(writer), name=name)
        task.add_done_callback(lambda _: self._wake_reader())
        try:
            while True:
                while self._offer is None and not task.done():
                    self._wake = loop.create_future()
                    await self._wake
                if self._offer is None:
                    break
                message, taken = self._offer
                yield message
                self._offer = None
                if not taken.done():
                    taken.set_result(None)
            ended = task.result()
            if ended is not None:
                raise ended
        finally:
            self._abandoned = True  # or a writer that writes while it cleans up would wait for us for ever
            if not task.done():
                task.cancel()
                # Not `await task`: its CancelledError would look like our own.
                await asyncio.wait({task})
                if not task.cancelled():
                    task.exception()  # marks it as seen: nobody needs the exception of a cancelled call

    def _wake_reader(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


async def _caught(writer: Coroutine[Any, Any, None]) -> BaseException | None:
    """Run the writer; return what a task must not raise, as that would end the event loop."""
    try:
        await writer
    except (SystemExit, KeyboardInterrupt) as exc:
        return exc
    return None
