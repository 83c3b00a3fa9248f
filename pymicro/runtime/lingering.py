"""Threads and tasks that keep a process alive after its service has stopped.

A thread cannot be cancelled, and Python ends a process only when all threads that are
no daemons have returned: those of `asyncio.to_thread` and of other executors too. asyncio waits for
the tasks that it cancels at the end of a loop, and one that ignores this is waited for for ever.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import logging
import os
import sys
import threading
import time
from types import FrameType
from typing import Any, NoReturn

from pymicro.base.loggers import logger

__all__ = ["LEFT_THREADS", "Lingering", "leave"]

log = logger("pymicro")

# The exit code of a process that left threads or tasks behind which were still at work.
LEFT_THREADS = 3

# Seconds between the line about such threads and the end of the process.
_PATIENCE = 2.0
# Seconds between two looks: a thread's end has no event that a loop could wait for.
_PAUSE = 0.05


class Lingering:
    """The threads that were started after this was made, and the loop's tasks.

    The earlier threads are the program's own.
    """

    def __init__(self) -> None:
        self._earlier = set(threading.enumerate())

    async def have_ended(self, name: str, grace: float) -> bool:
        """Cancel the tasks, and wait until none of them is at work; False if some still are.

        Args:
            name: The service, for the log.
            grace: Seconds they have before the log names them and a last wait begins.
        """
        began = time.monotonic()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        left = await _left_of(tasks, grace)
        if left:
            names = ", ".join(sorted(task.get_name() for task in left))
            text = "%s: these tasks ignore a cancellation, and the process ends without them in %g s: %s"
            log.warning(text, name, _PATIENCE, names)
            if await _left_of(left, _PATIENCE):
                return False
        if await self._ended(grace - (time.monotonic() - began)):
            return True
        text = "%s: these threads still run, and the process ends without them in %g s: %s"
        log.warning(text, name, _PATIENCE, ", ".join(self._at_work()))
        return await self._ended(_PATIENCE)

    async def _ended(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self._at_work():
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(_PAUSE)
        return True

    def _at_work(self) -> list[str]:
        """Name and place of each."""
        frames = sys._current_frames()
        found = []
        for thread in threading.enumerate():
            frame = frames.get(thread.ident or 0)
            if frame is not None and not thread.daemon and thread not in self._earlier and not _idle(frame):
                found.append(f"{thread.name} at {frame.f_code.co_filename}:{frame.f_lineno}")
        return found


async def _left_of(tasks: set[asyncio.Task[Any]], seconds: float) -> set[asyncio.Task[Any]]:
    """The tasks that have not ended after this time."""
    return (await asyncio.wait(tasks, timeout=max(0.0, seconds)))[1] if tasks else set()


def leave(code: int) -> NoReturn:
    """End the process at once, whatever its threads do."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _idle(frame: FrameType) -> bool:
    """Whether a thread of an executor waits for work: such a one ends when the process does."""
    code = frame.f_code
    return code.co_name == "_worker" and code.co_filename == concurrent.futures.thread.__file__
