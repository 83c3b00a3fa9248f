"""Background tasks with one owner."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, Self

from pymicro.base.loggers import logger

__all__ = ["Tasks"]

log = logger("pymicro.tasks")


class Tasks:
    """Background tasks that end with their owner, and never end each other.

    A task that dies of a bug is logged, with its traceback, and touches nobody: its siblings
    go on, and leaving raises nothing. (An asyncio.TaskGroup would cancel the siblings, and
    raise an ExceptionGroup into the user's body.)
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Cancel all tasks and wait for their end, even if the caller is cancelled meanwhile."""
        self._loop = None
        for task in self._running:
            task.cancel()
        cancelled: asyncio.CancelledError | None = None
        while running := [task for task in self._running if not task.done()]:
            try:
                await asyncio.wait(running)
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            raise cancelled

    @property
    def closed(self) -> bool:
        """Whether no tasks can be started: not entered yet, or left."""
        return self._loop is None

    def start(self, work: Coroutine[Any, Any, Any], name: str, *, inherit: bool = False) -> asyncio.Task[Any]:
        """Run `work` until it ends or the owner is left.

        Args:
            work: What to run.
            name: For people who look at tasks.
            inherit: Run it in the caller's context, since it is part of one call. Otherwise it
                sees none: what a call of a user starts for everybody must not keep that
                user's context variables, or spans, for as long as it runs.

        Raises:
            RuntimeError: The owner is not entered, or has been left.
        """
        if self._loop is None:
            work.close()
            raise RuntimeError(f"{self._name} is not running")
        context = None if inherit else Context()
        task = self._loop.create_task(work, name=f"{self._name}: {name}", context=context)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            log.error("%s died of a bug", task.get_name(), exc_info=bug)
