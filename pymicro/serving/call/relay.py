"""From responses that are written to responses that are iterated.

Foreign interceptors iterate a response stream. A handler that writes to its
context, or one that runs under an interceptor of ours, pushes instead; between
the two stands a task and this hand-over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from grpc.aio import UsageError

__all__ = ["Relay"]


class Relay:
    """Hands messages one by one from the task that writes to the one that iterates.

    `put` returns when the reader comes back for more: so a slow caller holds
    the writer up, as without a relay.
    """

    def __init__(self) -> None:
        self._offer: tuple[Any, asyncio.Future[None]] | None = None
        self._wake: asyncio.Future[None] | None = None

    async def put(self, message: Any) -> None:
        """Hand over one message and wait until it was taken."""
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
        """Run `writer` in a task and yield what it puts; ends, or raises, as it does."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(writer, name=name)
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
            task.result()
        finally:
            if not task.done():
                task.cancel()
                # Not `await task`: its CancelledError would look like our own.
                await asyncio.wait({task})
                if not task.cancelled():
                    task.exception()  # seen: what a cancelled call raises interests nobody

    def _wake_reader(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
