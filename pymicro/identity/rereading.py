"""Files that are read again and again, in a thread, so that the program follows their changes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Generic, TypeVar

__all__ = ["Rereading"]

T = TypeVar("T")

# Seconds between two looks. One look is some 100 µs.
PERIOD = 1.0


class Rereading(Generic[T]):
    """Looks at files until it is closed, and hands over what is new in them.

    Args:
        look: Called in the thread: what is new in the files, or None if nothing is. Raises what is wrong
            with them, with a sentence for people.
        take: Called in the event loop with what is new.
        say: Called in the event loop with what is wrong with the files; empty if nothing is.
        name: Of the thread.
        period: Says how many seconds after a look the next one comes; `PERIOD` if None.
        looked: Called in the event loop after each look, behind `take` and `say`.

    Attributes:
        looks: How often it has looked.
    """

    def __init__(
        self,
        look: Callable[[], T | None],
        take: Callable[[T], None],
        say: Callable[[str], None],
        *,
        name: str,
        period: Callable[[], float] | float | None = None,
        looked: Callable[[], None] | None = None,
    ) -> None:
        self._look = look
        self._take = take
        self._say = say
        self._period = period
        self._looked = looked
        self._loop = asyncio.get_running_loop()
        self._left = False
        self._wake = threading.Event()
        self._problem = ""
        self._in_a_row = 0
        self.looks = 0
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._left = True
        self._wake.set()

    def soon(self) -> None:
        """Look at once, and not only when it is time."""
        self._wake.set()

    def _work(self) -> None:
        while True:
            period = self._period() if callable(self._period) else self._period
            self._wake.wait(PERIOD if period is None else period)
            if self._left:
                return
            self._wake.clear()
            self.once()
            self.looks += 1

    def once(self) -> None:
        """Look now.

        Files that are written one after the other do not fit each other for a moment. So what is
        wrong is said if it is the same at two looks, or if something was at three.
        """
        problem, found = "", None
        try:
            found = self._look()
        except BaseException as exc:  # also a bug, no memory, or a panic of Rust: it looks again
            problem = str(exc) or type(exc).__name__
        before, self._problem = self._problem, problem
        self._in_a_row = self._in_a_row + 1 if problem else 0
        with contextlib.suppress(RuntimeError):  # a loop that is closed has no use for it
            if found is not None:
                self._loop.call_soon_threadsafe(self._take, found, context=Context())
            elif problem == before or self._in_a_row > 2:
                self._loop.call_soon_threadsafe(self._say, problem, context=Context())
            if self._looked is not None:
                self._loop.call_soon_threadsafe(self._looked, context=Context())
