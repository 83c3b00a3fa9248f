"""Work that goes on until it is cancelled, whatever happens to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

__all__ = ["being_cancelled", "endless"]


def being_cancelled() -> bool:
    """Whether somebody asked the current task to end.

    A CancelledError may also come from inside: a closed channel of grpc cancels its calls, a
    plug-in its own tasks. Then nobody cancelled us, and it is a failure like any other.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def endless(
    turn: Callable[[], Awaitable[float]],
    *,
    what: str,
    log: logging.Logger,
    pause: float,
    delay: float = 0.0,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> NoReturn:
    """Take one turn after the other until cancelled; a turn returns the seconds until the next one.

    A turn handles the failures that it expects. Every other one is logged with its traceback,
    and the next turn comes after `pause`.

    Args:
        turn: What to do again and again.
        what: Names it in the log.
        log: Where to say that it failed.
        pause: Seconds until the next turn after one that raised.
        delay: Seconds until the first turn.
        sleep: Waits between two turns.
    """
    seconds = delay
    while True:
        # What cannot be logged (a filter of the program's may raise) is no reason to end either.
        with contextlib.suppress(Exception):
            try:
                wait, seconds = seconds, pause
                if wait > 0:
                    await sleep(wait)
                seconds = await turn()
            except (Exception, asyncio.CancelledError) as exc:
                # A failure while we are being cancelled may have taken the place of the cancellation.
                if being_cancelled():
                    raise asyncio.CancelledError from exc
                log.exception("%s failed; trying again in %.1f s", what, seconds)
