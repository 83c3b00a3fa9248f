"""Lines of the log that strangers cause: so many a minute, and no more."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

__all__ = ["LogQuota"]

# Characters of one argument of a line.
_LONGEST = 1000


class LogQuota:
    """Says lines of one kind, at most so many in a period; the last one says that there are more.

    Whoever can cause one line can cause it over and over.

    Args:
        log: Where to say them.
        more: The last line: `more objects are skipped`.
        most: Lines in a period.
        period: Seconds.
        clock: Seconds.
    """

    def __init__(
        self,
        log: logging.Logger,
        more: str,
        *,
        most: int = 20,
        period: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._more = more
        self._most = most
        self._period = period
        self._clock = clock
        self._began = clock()
        self._lines = 0

    def say(self, level: int, text: str, *arguments: object, trace: bool | BaseException = False) -> bool:
        """Say a line, unless there were too many; returns whether it was said.

        Args:
            level: Of `logging`.
            text: As for a logger.
            arguments: Likewise; long ones are cut.
            trace: An exception that goes along; True for the one that is being handled.
        """
        if not self._log.isEnabledFor(level):
            return False
        now = self._clock()
        if now - self._began >= self._period:
            self._began, self._lines = now, 0
        self._lines += 1
        if self._lines < self._most:
            short = (one[:_LONGEST] if isinstance(one, str) else one for one in arguments)
            self._log.log(level, text, *short, exc_info=trace)
            return True
        if self._lines == self._most:
            self._log.log(level, "%s, and not named for a while", self._more)
        return False
