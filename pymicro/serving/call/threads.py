"""Threads for handlers that are plain functions."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["HandlerThreads"]


@dataclass(slots=True, eq=False)
class _Job:
    run: Callable[[], Any]
    future: asyncio.Future[Any]


class HandlerThreads:
    """At most `size` threads; calls beyond that wait in line.

    A thread cannot be cancelled: it is occupied until its function returns, even if
    nobody waits for the result any more. So the threads are daemons, unlike those of
    concurrent.futures: a handler that hangs must not keep the process from ending.

    It belongs to one event loop; call all methods there.

    Args:
        size: The most threads.
        name: What they are called, with a number behind it.
    """

    def __init__(self, size: int, name: str = "pymicro-handler") -> None:
        self._size = size
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._unfinished = 0
        self._closed = False

    def run(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Call the function in a thread, with the current ContextVars; the future gets its result."""
        if self._closed:
            raise RuntimeError("the handler threads are closed")
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        job = _Job(lambda: context.run(function, *args), loop.create_future())
        self._unfinished += 1
        if self._unfinished > self._threads < self._size:
            self._threads += 1
            name = f"{self._name}-{self._threads}"
            threading.Thread(target=self._work, args=(loop,), name=name, daemon=True).start()
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Let each thread end after its current function; does not wait for that."""
        if not self._closed:
            self._closed = True
            for _ in range(self._threads):
                self._jobs.put(None)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (job := self._jobs.get()) is not None:
            result, error = None, None
            if not job.future.cancelled():  # skip a call that was given up while in line
                try:
                    result = job.run()
                except BaseException as exc:  # the awaiting call decides what to do with it
                    error = exc
            try:
                loop.call_soon_threadsafe(self._finish, job, result, error)
            except RuntimeError:
                return  # the loop is closed, so nobody waits any more
            del job, result, error  # keep nothing alive while waiting for the next job

    def _finish(self, job: _Job, result: Any, error: BaseException | None) -> None:
        self._unfinished -= 1
        if job.future.done():
            return  # cancelled meanwhile
        if error is None:
            job.future.set_result(result)
        elif isinstance(error, StopIteration):  # a future refuses this exception
            wrapped = RuntimeError("a handler raised StopIteration")
            wrapped.__cause__ = error
            job.future.set_exception(wrapped)
        else:
            job.future.set_exception(error)
