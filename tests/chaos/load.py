"""Calls at a steady rate on the real client, each of them accounted for."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from pymicro import RpcError
from tests.chaos.proto import Order, call_method
from tests.chaos.tally import Call, Tally

__all__ = ["Load", "ended", "spread"]

_names: Iterator[int] = itertools.count(1)

# A caller that was held up for longer than this leaves out what it should have begun meanwhile.
BEHIND = 0.25
# How long to wait for what must happen some time.
PATIENCE = 30.0


class Load:
    """While entered, calls a method; left, it lets the calls in flight end.

    Calls begin at random times, whether or not earlier ones have ended, as users do.

    Args:
        channel: A channel of the client.
        method: One of the victim's.
        rate: Calls a second, on the average.
        seconds: What the handler is asked to take, or the requests of a stream take to
            send; a function is asked for each call.
        timeout: Of each call.
        messages: Of a stream.
        most: Calls in flight; while there are so many, none is begun. 0 for no limit.
    """

    def __init__(
        self,
        channel: Any,
        method: str = "Plain",
        *,
        rate: float = 100.0,
        seconds: float | Callable[[], float] = 0.0,
        timeout: float = 20.0,
        messages: int = 5,
        most: int = 0,
    ) -> None:
        self.calls: list[Call] = []
        self._name = f"{method.lower()}{next(_names)}"
        self._method = method
        self._call = call_method(channel, method)
        self._rate = rate
        self._seconds = seconds if callable(seconds) else lambda: seconds
        self._timeout = timeout
        self._messages = messages
        self._most = most
        self._stopping = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._ended = 0
        self._bug: BaseException | None = None
        self._pace: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._pace = asyncio.create_task(self._keep_pace(), name=f"load {self._name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        assert self._pace is not None
        await self._pace
        while self._running:
            await asyncio.wait(self._running)
        if self._bug is not None and exc is None:
            raise self._bug

    async def more(self, count: int) -> None:
        """Wait until `count` more calls have ended, well or not."""
        if self._bug is not None:
            raise self._bug
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append((self._ended + count, waiter))
        try:
            async with asyncio.timeout(PATIENCE):
                await waiter
        except TimeoutError:
            raise AssertionError(f"no {count} more calls ended: {Tally(self.calls).describe()}") from None

    @property
    def in_flight(self) -> int:
        """Calls begun and not ended."""
        return len(self.calls) - self._ended

    async def _keep_pace(self) -> None:
        # Not evenly: two loads in step would each see only every other node of a round robin.
        chance = random.Random(self._name)
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self._stopping.is_set():
            call = Call(f"{self._name}-{len(self.calls)}", self._method, time.time())
            self.calls.append(call)
            task = asyncio.create_task(self._make(call), name=f"call {call.id}")
            self._running.add(task)
            task.add_done_callback(self._made)
            while self._most and self.in_flight >= self._most:
                await self.more(1)
            due = max(due + chance.expovariate(self._rate), loop.time() - BEHIND)
            await asyncio.sleep(due - loop.time())

    def _made(self, task: asyncio.Task[None]) -> None:
        """A call is accounted for; or it ended with what is no status, which ends the load."""
        self._running.discard(task)
        bug = None if task.cancelled() else task.exception()
        if bug is not None:
            self._bug = bug
            self._stopping.set()
            for _, waiter in self._waiting:
                if not waiter.done():
                    waiter.set_exception(bug)

    async def _requests(self, order: Any) -> AsyncIterator[Any]:
        for number in range(self._messages):
            if number:
                await asyncio.sleep(order.seconds / (self._messages - 1))
            yield order

    async def _make(self, call: Call) -> None:
        order = Order(call=call.id, seconds=self._seconds(), messages=self._messages)
        request = self._requests(order) if self._method == "Collect" else order
        started = self._call(request, timeout=self._timeout)
        try:
            if self._method == "Count":
                answers = [answer async for answer in started]
                expected = list(range(self._messages))
            else:
                answers = [await started]
                expected = [self._messages if self._method == "Collect" else 0]
            call.complete = [answer.number for answer in answers] == expected
            call.complete = call.complete and all(answer.call == call.id for answer in answers)
            call.code = "OK"
        except RpcError as exc:
            call.code, call.text = exc.code().name, str(exc.details())
        except asyncio.CancelledError:
            call.code, call.text = "CANCELLED", "and not by its caller"
        call.node = started.node.address if started.node is not None else ""
        call.ended = time.time()
        self._ended += 1
        for waiting in [one for one in self._waiting if one[0] <= self._ended]:
            self._waiting.remove(waiting)
            if not waiting[1].done():
                waiting[1].set_result(None)


async def ended(*loads: Load, count: int) -> None:
    """Wait until each has seen `count` more calls end."""
    await asyncio.gather(*(load.more(count) for load in loads))


async def spread(load: Load, addresses: Iterable[str]) -> None:
    """Wait until, from now on, each of these nodes has answered a call."""
    missing, seen = set(addresses), len(load.calls)
    try:
        async with asyncio.timeout(PATIENCE):
            while missing:
                await load.more(1)
                missing -= {call.node for call in load.calls[seen:] if call.code == "OK"}
    except TimeoutError:
        since = Tally(load.calls[seen:])
        raise AssertionError(f"no answer from {', '.join(missing)}: {since.describe()}") from None
