"""Background tasks with one owner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any, Self

__all__ = ["Tasks"]

log = logging.getLogger("pymicro.tasks")


class Tasks:
    """Background tasks in one TaskGroup, which a task of its own enters and leaves.

    The group never surrounds the user's body: a child's bug would turn their
    `KeyError` into an `ExceptionGroup`, and their cancellation would reach the
    children first. A task that dies of a bug ends its siblings too; the bug is
    logged at once and raised when the owner is left.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._group: asyncio.TaskGroup | None = None
        self._owner: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        entered = asyncio.get_running_loop().create_future()
        self._owner = asyncio.create_task(self._own(entered), name=f"{self._name}: owner")
        await entered
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._owner is not None, "left without being entered"
        self._stop.set()
        await self._owner

    async def _own(self, entered: asyncio.Future[None]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                entered.set_result(None)
                await self._stop.wait()
                for task in list(self._running):
                    task.cancel()
        except BaseExceptionGroup as bugs:
            log.error("%s: a background task died of a bug", self._name, exc_info=bugs)
            raise
        finally:
            self._group = None

    @property
    def closed(self) -> bool:
        """Whether tasks can no longer be started."""
        return self._group is None or self._stop.is_set()

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
        if self._group is None or self._stop.is_set():
            work.close()
            raise RuntimeError(f"{self._name} is not running")
        task = self._group.create_task(
            work, name=f"{self._name}: {name}", context=None if inherit else Context()
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task
