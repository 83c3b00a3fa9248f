"""What followers of a reflector see: the newest mapping, or that it cannot be had."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

from pymicro.kubernetes.api.errors import KubeError

__all__ = ["Publication"]

log = logging.getLogger("pymicro.kube")

T = TypeVar("T")


class Publication(Generic[T]):
    """One mapping for any number of followers, none of whom can hold another up.

    Args:
        what: Names the collection in the log.
        current: Gives the mapping as it is now.
        gather: Least seconds between two editions for followers; changes in between are gathered.
    """

    def __init__(self, what: str, current: Callable[[], Mapping[str, T]], gather: float) -> None:
        self.failure: KubeError | None = None
        self._what = what
        self._current = current
        self._gather = gather
        # A moment of the loop's clock.
        self._published = float("-inf")
        self._editions = 0
        self._failures = 0
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        # Set once and never cleared: each news has its own.
        self._news = asyncio.Event()

    def soon(self) -> None:
        """There is something to see: publish when the loop turns, or `gather` after the last time.

        A lone change waits for nobody, and a thousand of them make twenty editions a second.
        """
        self._publish_at(self._published + self._gather)

    def later(self) -> None:
        """Something was confirmed: publish in `gather` seconds, with what comes until then."""
        self._publish_at(asyncio.get_running_loop().time() + self._gather)

    def now(self) -> None:
        """Publish at once; what failed before works again."""
        self._cancel()
        if self.failure is not None:
            log.info("%s: the API works again", self._what)
            self.failure = None
        self._published = asyncio.get_running_loop().time()
        self._editions += 1
        self._wake()

    def postpone(self) -> None:
        """What failed before does not work again yet, whatever it looked like."""
        if self.failure is not None:
            self._cancel()

    def fail(self, error: KubeError) -> None:
        """The mapping can no longer be kept in step: everybody who follows now is told."""
        # What was to be published stays in the mapping, for when it works again.
        self._cancel()
        self.failure = error
        self._failures += 1
        self._wake()

    def close(self) -> None:
        """End every follower's loop."""
        self._cancel()
        self._closed = True
        self._wake()

    async def follow(self) -> AsyncGenerator[Mapping[str, T], None]:
        """See `Reflector.follow`."""
        edition = 0
        # A failure from before is no news to whoever comes now; the next one is.
        failures = self._failures
        while True:
            news = self._news
            if self.failure is not None:
                if failures != self._failures:
                    # A copy: each raising adds its traceback to what it raises.
                    raise copy.copy(self.failure)
            elif edition != self._editions:
                edition = self._editions
                yield MappingProxyType(self._current())
                continue
            if self._closed:
                return
            await news.wait()

    def _publish_at(self, moment: float) -> None:
        if self._closed or (self._timer is not None and self._timer.when() <= moment):
            return
        self._cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(max(moment, loop.time()), self.now)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
