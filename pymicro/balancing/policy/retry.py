"""Whether a failed call is retried, and after what pause."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Failure", "RetryPolicy"]

RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12
UNAVAILABLE = 14

# With these, another node may do better. The other codes are a handler's answer on any node,
# or (DEADLINE_EXCEEDED, CANCELLED) nobody waits any more.
NOT_RUN = frozenset({RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE})

# Seconds. Even the longest pause leaves most of a call's default timeout of 5 s.
FIRST_CEILING = 0.05
HIGHEST_CEILING = 1.0

# gRFC A6: "an ASCII encoded signed 32-bit integer with no unnecessary leading zeros".
_PUSHBACK = re.compile(r"0|[1-9][0-9]{0,9}")
_INT32 = 2**31


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt, and what is known about it.

    Attributes:
        code: The status as its number.
        may_have_run: False only with proof that no handler ran: the channel was not
            READY, or the server said so in a trailer.
        idempotent: The method is marked: it may run twice.
        attempts: Attempts so far, this one included.
        left: Seconds to the deadline of the whole call; None without one.
        pushback: The trailer `grpc-retry-pushback-ms` as received; None without one.
    """

    code: int
    may_have_run: bool
    idempotent: bool
    attempts: int
    left: float | None
    pushback: str | None = None


class RetryPolicy:
    """Decides on retries by proof that no handler ran, not by the text of an error.

    A call that no handler has seen may go to another node, whatever the method. A call
    that may have run is retried only if the method is marked idempotent and the status
    is UNAVAILABLE: any other status is an answer.

    The first retry of a call that has not run waits for nothing, since it goes to another
    node. Any other waits for a time drawn between 0 and a ceiling of 50 ms that
    doubles up to 1 s (full jitter: AWS Architecture Blog, "Exponential Backoff and
    Jitter"). A server's pushback overrides both (gRFC A6): the retry waits exactly that
    many milliseconds; if it is negative or no number, there is no retry.

    Args:
        retries: Most attempts after the first one.
        uniform: Source of randomness, `(low, high) -> value`.
    """

    def __init__(self, retries: int, *, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._retries = retries
        self._uniform = uniform

    def pause(self, failure: Failure) -> float | None:
        """Seconds before the next attempt; None if the caller gets the error."""
        if failure.attempts > self._retries or not _may_go_again(failure):
            return None
        if failure.pushback is not None:
            pause = _pushback(failure.pushback)
        elif failure.attempts == 1 and not failure.may_have_run:
            pause = 0.0
        else:
            # 2.0**1024 is an error, and the ceiling is reached at the sixth attempt.
            doubled = FIRST_CEILING * 2.0 ** min(failure.attempts - 1, 10)
            pause = self._uniform(0.0, min(HIGHEST_CEILING, doubled))
        if pause is None or (failure.left is not None and pause >= failure.left):
            return None
        return pause


def _may_go_again(failure: Failure) -> bool:
    if failure.may_have_run:
        return failure.idempotent and failure.code == UNAVAILABLE
    return failure.code in NOT_RUN


def _pushback(text: str) -> float | None:
    """The seconds a server asks for; None if it asks for no retry."""
    if not _PUSHBACK.fullmatch(text) or int(text) >= _INT32:
        return None
    return int(text) / 1000
