"""One check of a service's own health, run again and again."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymicro.base.durations import format_duration
from pymicro.base.endless import endless
from pymicro.base.errors import ConfigError
from pymicro.base.loggers import logger
from pymicro.base.places import line_of
from pymicro.base.printable import excerpt
from pymicro.base.watchdog import stood_still
from pymicro.runtime.hooks import call_hook
from pymicro.runtime.life_here import context_apart
from pymicro.serving.call.threads import HandlerThreads

__all__ = ["CheckRun", "OwnCheck"]

log = logger("pymicro.health")

# Seconds until a failure is looked at again, if that is less than the check's own interval: so
# a node with a real fault leaves soon, and a hiccup is no fault.
AGAIN = 1.0
# Seconds that a check has to end once it was cancelled.
CLEANUP = 1.0
# The intervals differ by this part: a thousand pods that start together must not ask one
# database in the same moment for ever.
_JITTER = 0.1


@dataclass(frozen=True, slots=True)
class OwnCheck:
    """A check that the program added.

    Attributes:
        function: What to call.
        name: For the log.
        every: Seconds between the end of one run and the begin of the next.
        timeout: Seconds that a run may take.
        failures: How many runs in a row must fail until the node is not well.
    """

    function: Callable[..., Any]
    name: str
    every: float
    timeout: float
    failures: int

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigError(f"a health check is a function, not {excerpt(self.function)}")
        for key, value in (("every", self.every), ("timeout", self.timeout)):
            if not isinstance(value, int | float) or not 0.001 <= value < 1e9:
                raise ConfigError(
                    f"health check {excerpt(self.name)}: {key}={excerpt(value)} is no time in seconds"
                )
        if not isinstance(self.failures, int) or self.failures < 1:
            raise ConfigError(
                f"health check {excerpt(self.name)}: failures={excerpt(self.failures)} is no number from 1"
            )


class CheckRun:
    """Runs a check for one life of a service. Whatever it does, its result is there in bounded time.

    It hangs or takes too long: that is a failure, and no second run begins before the first has
    ended. It raises: the reason is the exception. It blocks the event loop: the watchdog names the
    line, and the time counts. A plain function runs in a thread of its own.

    Args:
        check: The check.
        service: Its argument, if it takes one.
        changed: Called after each run.

    Attributes:
        check: The check.
        reason: Why the node is not well by this check; empty if it is.
    """

    def __init__(self, check: OwnCheck, service: object, changed: Callable[[], None]) -> None:
        self.check = check
        self.reason = ""
        self._service = service
        self._changed = changed
        self._failed = 0
        self._threads = HandlerThreads(1)
        self._run: asyncio.Task[str] | None = None
        self._began = 0.0
        self._turns: asyncio.Task[None] | None = None

    async def first(self) -> None:
        """Run it once; before there is a good result, one failure counts."""
        self.reason = await self._result()
        self._failed = self.check.failures if self.reason else 0

    def go_on(self) -> None:
        """Run it again and again from now on."""
        what = f"health check {self.check.name}"
        turns = endless(self._turn, what=what, log=log, pause=self.check.every, delay=self._pause())
        self._turns = asyncio.create_task(turns, name=what, context=context_apart())

    async def close(self) -> None:
        """End it, in bounded time."""
        self._threads.close()
        tasks = {task for task in (self._turns, self._run) if task is not None and not task.done()}
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=CLEANUP)
            if left:
                log.warning("health check %s ignores that it was cancelled", self.check.name)

    async def _turn(self) -> float:
        reason = await self._result()
        self._failed = self._failed + 1 if reason else 0
        if not reason:
            self.reason = ""
        elif self.reason or self._failed >= self.check.failures:
            self.reason = reason
        self._changed()
        return self._pause()

    def _pause(self) -> float:
        every = self.check.every
        if 0 < self._failed < self.check.failures:
            every = min(every, AGAIN)
        return every * random.uniform(1 - _JITTER, 1 + _JITTER)

    async def _result(self) -> str:
        """Run it; the reason why it failed, or an empty text."""
        limit = self.check.timeout
        begins = self._run is None or self._run.done()
        if begins:
            self._began = time.monotonic()
            self._run = asyncio.create_task(
                self._work(), name=f"one run of health check {self.check.name}", context=context_apart()
            )
        run = self._run
        assert run is not None
        done, _ = await asyncio.wait({run}, timeout=limit)
        took = time.monotonic() - self._began
        if not done:
            run.cancel()
            return f"no result in {format_duration(round(took, 1))}"
        if not begins:
            return f"a run took {took:.1f} s, more than {format_duration(limit)}"
        if took > limit:
            held = stood_still(self._began)
            blame = f" (the event loop stood still for {held:.1f} s of them)" if held else ""
            return f"took {took:.1f} s, more than {format_duration(limit)}{blame}"
        if run.cancelled():
            return "it was cancelled"  # not by us: it cancelled itself
        # Even what it raised or returned may raise, when somebody looks at it.
        bug = run.exception()
        return run.result() if bug is None else f"failed with a {type(bug).__name__} that cannot be shown"

    async def _work(self) -> str:
        function = self.check.function
        try:
            if inspect.iscoroutinefunction(function):
                found = await call_hook(function, self._service)
            else:
                found = await self._in_thread(function)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:  # a check that calls sys.exit fails, and ends nobody
            log.debug("health check %s failed", self.check.name, exc_info=exc)
            return _said(exc)
        if found is None or found is True:
            return ""
        if found is False:
            return "failed"
        if isinstance(found, str):
            return found
        return f"returned a {type(found).__name__}: a check returns None or True, or False or why it failed"

    async def _in_thread(self, function: Callable[..., Any]) -> Any:
        """What a plain function returns. A coroutine is awaited, or closed if it comes when nobody waits."""
        given: list[Any] = []
        over = False

        def work() -> None:
            given.append(call_hook(function, self._service))
            if over:
                drop()

        def drop() -> None:
            for found in given:
                if inspect.iscoroutine(found):
                    found.close()

        try:
            await self._threads.run(work)
            (found,) = given
            return await found if inspect.isawaitable(found) else found
        finally:
            over = True
            drop()


def _said(exc: BaseException) -> str:
    """An exception in one line, with the line of the check that raised it."""
    text, line = str(exc), line_of(exc)
    return f"{type(exc).__name__}{': ' if text else ''}{text}{f' ({line})' if line else ''}"
