"""How long one step of the event loop takes, and servers that take no step of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from tests.machine import least_cpu

__all__ = ["HELD", "Steps", "elsewhere", "held_briefly", "steps"]

T = TypeVar("T")

# Seconds of this thread's CPU that one input of up to 256 KB may take in one step.
HELD = 0.020


class Steps:
    """The longest step so far.

    Attributes:
        longest: Seconds of the thread's CPU.
        what: What it was.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self.what = ""


@contextmanager
def steps() -> Iterator[Steps]:
    """Measure each step of this thread's loop: what runs without letting anybody else run."""
    found, here, run = Steps(), threading.get_ident(), asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        before = time.thread_time()
        run(handle)
        spent = time.thread_time() - before
        if spent > found.longest and threading.get_ident() == here:
            found.longest, found.what = spent, repr(handle)[:300]

    asyncio.Handle._run = measured  # type: ignore[method-assign]
    try:
        yield found
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]


async def held_briefly(attack: Callable[[], Awaitable[Steps]]) -> None:
    """Assert that no step is too long at full speed; tried again, since other programs take time too."""
    what = ""

    async def longest() -> float:
        nonlocal what
        found = await attack()
        what = found.what
        return found.longest

    seconds = await least_cpu(longest, HELD)
    assert seconds <= HELD, f"the event loop was held for {seconds * 1000:.0f} ms; the last time by {what}"


@asynccontextmanager
async def elsewhere(make: Callable[[], AbstractAsyncContextManager[T]]) -> AsyncIterator[tuple[T, Any]]:
    """A server in a thread and loop of its own, and what runs a function there."""
    ready: asyncio.Future[tuple[T, asyncio.AbstractEventLoop, asyncio.Event]]
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    async def serve() -> None:
        end = asyncio.Event()
        async with make() as server:
            loop.call_soon_threadsafe(ready.set_result, (server, asyncio.get_running_loop(), end))
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    server, other, end = await ready

    async def there(function: Callable[..., Any], *arguments: Any) -> Any:
        async def call() -> Any:
            return function(*arguments)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(), other))

    try:
        yield server, there
    finally:
        other.call_soon_threadsafe(end.set)
        await asyncio.to_thread(thread.join)
