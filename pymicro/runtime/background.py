"""Work that a service does beside its calls: tasks whose owner is one life of the service."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import random
import time
from asyncio.events import _get_running_loop
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from pymicro.base.backoff import Backoff
from pymicro.base.endless import being_cancelled
from pymicro.base.errors import ConfigError, PymicroError
from pymicro.base.log_quota import LogQuota
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.runtime.hooks import call_hook
from pymicro.runtime.life_here import context_apart

__all__ = ["Background", "BackgroundWork"]

log = logger("pymicro.background")

# Seconds between the failure of work without a period and its next run: at least, at first, at most.
SOONEST, FIRST, LONGEST = 0.1, 1.0, 60.0
# Seconds that cancelled work has at least to end, also where nothing is waited for any more.
CLEANUP = 1.0
# Seconds of the shortest period: a shorter one would leave no time for anything else.
_QUICKEST = 0.001
# Periods differ by this part: a thousand pods that start together must not ask one database in
# the same moment for ever.
_JITTER = 0.1
# Names with a quota of lines in the log of their own; further ones share one.
_MOST_QUOTAS = 100


@dataclass(frozen=True, slots=True)
class BackgroundWork:
    """A coroutine function that runs beside the calls.

    Attributes:
        function: What to run; it gets the service if it takes an argument.
        name: For the log.
        every: Seconds from the begin of one run to the begin of the next; None for one run.

    Raises:
        ConfigError: The function is none that can be awaited, or `every` is no time.
    """

    function: Callable[..., Any]
    name: str
    every: float | None = None

    def __post_init__(self) -> None:
        if inspect.iscoroutine(self.function):
            self.function.close()  # so that Python does not complain of it as well
            raise ConfigError(
                f"background task {excerpt(self.name)}: give the function, not a coroutine of it"
            )
        if not _is_coroutine_function(self.function):
            raise ConfigError(
                f"background task {excerpt(self.name)}: {excerpt(self.function)} is no coroutine function; "
                "write `async def`, and `await asyncio.to_thread(…)` around what blocks"
            )
        every = self.every
        if every is not None and not (isinstance(every, int | float) and _QUICKEST <= every < 1e9):
            raise ConfigError(
                f"background task {excerpt(self.name)}: every={excerpt(every)} is no time in seconds"
            )


class Background:
    """The background tasks of one life of a service. Whatever one does, the others and the service go on.

    A run that fails is logged and comes again: with a period, when its turn comes; without, after
    a growing pause. No work has two runs at once.

    Args:
        work: What runs from the start.
        service: The argument for functions.
        name: The service's name, for the log.
    """

    def __init__(self, work: Iterable[BackgroundWork], service: object, name: str) -> None:
        self._waiting: list[BackgroundWork] = list(work)
        self._service = service
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = Context()
        self._tasks: set[asyncio.Task[None]] = set()
        self._quotas: dict[str, LogQuota] = {}
        self._closed = False
        self._hurried = asyncio.Event()

    def open(self) -> None:
        """Start all work; what is added from now on starts at once."""
        self._loop = asyncio.get_running_loop()
        self._context = context_apart()
        work, self._waiting = self._waiting, []
        for one in work:
            self._start(one)

    def add(self, work: BackgroundWork) -> None:
        """Run this too, from `open` on; may be called from any thread.

        Raises:
            PymicroError: The service stops already.
        """
        if self._closed:
            raise PymicroError(
                f"background task {excerpt(work.name)}: {self._name} is stopping, and starts none any more"
            )
        if self._loop is None:
            self._waiting.append(work)
        elif _get_running_loop() is self._loop:
            self._start(work)
        else:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._start, work)

    def hurry(self) -> None:
        """Do not wait for the grace in `close`."""
        self._hurried.set()

    async def close(self, grace: float) -> None:
        """Cancel all, and wait until they have ended; the log names those that do not end.

        Args:
            grace: Seconds that they have, one at least.
        """
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if not self._tasks:
            return
        hurried = asyncio.create_task(self._hurried.wait(), name="wait for a hurried stop")
        end = time.monotonic() + max(grace, CLEANUP)
        try:
            while self._tasks and not hurried.done() and (left := end - time.monotonic()) > 0:
                await asyncio.wait({*self._tasks, hurried}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurried.cancel()
        if self._tasks and hurried.done():
            await asyncio.wait(set(self._tasks), timeout=CLEANUP)
        for task in self._tasks:
            log.warning("%s ignores that it was cancelled", task.get_name())

    def _start(self, work: BackgroundWork) -> None:
        if self._closed:
            return
        assert self._loop is not None
        name = f"background task {excerpt(work.name)} of {self._name}"
        # A task of its own context: work that a handler started must not keep that call's deadline.
        task = self._loop.create_task(self._go_on(work, name), name=name, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _go_on(self, work: BackgroundWork, name: str) -> None:
        backoff = Backoff(FIRST, LONGEST, floor=SOONEST)
        while not being_cancelled():
            began = time.monotonic()
            failed = await self._run(work)
            took = time.monotonic() - began
            if being_cancelled():
                if failed is not None and not isinstance(failed, asyncio.CancelledError):
                    self._tell(name, failed, "%s failed while it was cancelled", name)
                return
            if failed is None and work.every is None:
                return
            if work.every is not None:
                every = work.every * random.uniform(1 - _JITTER, 1 + _JITTER)
                pause = every - took % every  # a run that took longer has let turns go by
            else:
                if took > LONGEST:
                    backoff.reset()
                pause = backoff.next()
            if failed is not None:
                self._tell(name, failed, "%s failed; it runs again in %.1f s", name, pause)
                failed = None
            await asyncio.sleep(pause)

    async def _run(self, work: BackgroundWork) -> BaseException | None:
        """Run it once; what it raised."""
        try:
            found = call_hook(work.function, self._service)
            if inspect.isawaitable(found):
                await found
        # One that calls sys.exit fails, and ends nobody; KeyboardInterrupt is Ctrl-C, and not its own.
        except (Exception, asyncio.CancelledError, SystemExit) as exc:
            task = asyncio.current_task()
            # Nobody but itself has cancelled it, as a timeout does that was taken apart.
            while not self._closed and task is not None and task.cancelling():
                task.uncancel()
            return exc
        return None

    def _tell(self, name: str, failed: BaseException, text: str, *arguments: object) -> None:
        key = name if name in self._quotas or len(self._quotas) < _MOST_QUOTAS else ""
        quota = self._quotas.get(key)
        if quota is None:
            more = f"{key or 'background tasks of ' + self._name} failed more often"
            quota = self._quotas[key] = LogQuota(log, more)
        # What cannot be logged (a filter of the program's may raise) is no reason to end.
        with suppress(Exception):
            quota.say(logging.ERROR, text, *arguments, trace=failed)


def _is_coroutine_function(function: Any) -> bool:
    """Whether calling it gives a coroutine, as far as its layers of decorators and partials tell."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type) or not callable(function):
        return False
    layers = (function, inspect.unwrap(function), getattr(function, "__call__", None))  # noqa: B004
    return any(inspect.iscoroutinefunction(layer) for layer in layers)
