"""A service's own health: what its program says of it, and what its checks find.

A node that is not well leaves the registry and says NOT_SERVING, as one that stops does. It
goes on serving what still comes: callers hear of it with a delay, and a call that is served
badly is better than one that is refused while it was on its way.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import _get_running_loop
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import Any

from pymicro.base.errors import ConfigError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt, printable, shortened
from pymicro.runtime.checks import CheckRun, OwnCheck

__all__ = ["OwnHealth", "Verdict"]

log = logger("pymicro.health")

# Seconds that a node stays away at least. It doubles if the node was back for less than CALM
# seconds, up to LONGEST_AWAY: each coming and going is an event for every client, so a health
# that flaps must not do so at their cost.
AWAY = 1.0
LONGEST_AWAY = 30.0
CALM = 60.0
# Seconds between two lines in the log about other reasons of a node that is away.
QUIET = 10.0
# The longest reason that is kept; the driver of a database may put a page into an exception.
_LONGEST_REASON = 300


class OwnHealth:
    """What the program says of its service's health; may be used from any thread.

    Attributes:
        checks: Its checks; all are there before a life of it begins.
        reason: Why it is not well; None if it is.
    """

    def __init__(self) -> None:
        self.checks: list[OwnCheck] = []
        self.reason: str | None = None
        self._verdicts: list[Verdict] = []

    def add(self, check: OwnCheck) -> None:
        """Add a check.

        Raises:
            ConfigError: There is one of that name, or the service runs already.
        """
        if any(check.name == other.name for other in self.checks):
            raise ConfigError(
                f"there is a health check {excerpt(check.name)} already: give this one another name="
            )
        if self._verdicts:
            raise ConfigError(
                f"health check {excerpt(check.name)}: checks are added before the service starts"
            )
        self.checks.append(check)

    def set(self, healthy: bool, reason: str) -> None:
        """Say how it is, until the next word or the end of the service."""
        before, self.reason = self.reason, None if healthy else _cleaned(reason) or "its program says so"
        if self.reason == before:
            return  # a handler may say so at each call
        for verdict in list(self._verdicts):
            verdict.heard()

    def join(self, verdict: Verdict) -> None:
        """Tell this one of each word."""
        self._verdicts.append(verdict)

    def leave(self, verdict: Verdict) -> None:
        """Tell it no more; what was said holds no longer than the last life."""
        if verdict in self._verdicts:
            self._verdicts.remove(verdict)
            if not self._verdicts:
                self.reason = None


class Verdict:
    """Whether one life of a service is well: only if its program says so and no check fails.

    Going away is at once; coming back waits until the node has been away for a while (AWAY).

    Args:
        own: The service's health.
        service: The argument for checks.
        name: The service's name, for the log.
        changed: Gets the new `well`.

    Attributes:
        well: Whether the node belongs into the registry.
    """

    def __init__(self, own: OwnHealth, service: object, name: str, changed: Callable[[bool], None]) -> None:
        self._own = own
        self._name = name
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._runs = [CheckRun(check, service, self._review) for check in own.checks]
        self._closed = False
        self._open = self._served = False
        self._away = AWAY
        self._left, self._back = -inf, -inf
        self._told: Sequence[str] = ()
        self._told_at = -inf
        self._timer: asyncio.TimerHandle | None = None
        self.well = True

    @property
    def problems(self) -> Mapping[str, str]:
        """Why it is not well: a reason by the name of each check that fails, "" for `set_health`."""
        found = {} if self._own.reason is None else {"": self._own.reason}
        found |= {run.check.name: _cleaned(run.reason) for run in self._runs if run.reason}
        return found

    async def open(self) -> None:
        """Run each check once, side by side, and go on with them."""
        self._own.join(self)
        await asyncio.gather(*(run.first() for run in self._runs))
        self._open = True
        self._review()
        self._served = True
        for run in self._runs:
            run.go_on()

    async def close(self) -> None:
        """End the checks, in bounded time; nothing changes any more. May be called again."""
        self._closed = True
        self._own.leave(self)
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*(run.close() for run in self._runs))

    def heard(self) -> None:
        """The program has said something, in any thread."""
        if _get_running_loop() is self._loop:
            self._review()
        else:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._review)

    def _review(self) -> None:
        if self._closed or not self._open:
            return
        well, now = not self.problems, time.monotonic()
        if self.well and not well:
            self._away = AWAY if now - self._back >= CALM else min(2 * self._away, LONGEST_AWAY)
            self._left = now
            self._turn(False)
            self._tell(
                f"%s is NOT_SERVING and {'leaves' if self._served else 'stays out of'} the registry: %s"
            )
        elif not self.well and well:
            if now >= self._left + self._away:
                self._back = now
                self._turn(True)
                log.info("%s is SERVING again, after %.1f s", self._name, now - self._left)
            else:
                self._review_at(self._left + self._away)
        elif not well and self._told != tuple(self.problems):
            if now >= self._told_at + QUIET:
                self._tell("%s is still NOT_SERVING: %s")
            else:
                self._review_at(self._told_at + QUIET)

    def _turn(self, well: bool) -> None:
        self.well = well
        self._changed(well)

    def _tell(self, text: str) -> None:
        found = self.problems
        self._told, self._told_at = tuple(found), time.monotonic()
        reasons = [f"{name}: {reason}" if name else reason for name, reason in found.items()]
        log.warning(text, self._name, "; ".join(reasons))

    def _review_at(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(moment - time.monotonic(), self._review)


def _cleaned(reason: Any) -> str:
    """One line of it."""
    text = printable(" ".join(str(reason)[: 4 * _LONGEST_REASON].split()))
    return shortened(text, _LONGEST_REASON)
