"""One running thing, shared by all of its users."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from pymicro.base.tasks import Tasks

__all__ = ["Sharing"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Share(Generic[T]):
    """A thing, the task that does its work, and the number of its users."""

    thing: T
    task: asyncio.Task[Any]
    users: int = 0
    expiry: asyncio.TimerHandle | None = None


class Sharing(Generic[K, T]):
    """Runs one thing for each key, from its first user's coming until its last user has gone.

    If a thing has ended by itself, the next user gets a new one. `async with` the
    sharing: when you leave it, all its things end. You may enter it again.

    Args:
        name: The name of its tasks.
        linger: Gives the seconds that a thing runs on after its last user; called when
            that user goes. None: the last user ends the thing and waits for its end.
    """

    def __init__(self, name: str, linger: Callable[[T], float] | None = None) -> None:
        self._name = name
        self._linger = linger
        self._shares: dict[K, _Share[T]] = {}
        self._tasks: Tasks | None = None

    async def __aenter__(self) -> Self:
        self._tasks = await Tasks(self._name).__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End everything, even things still in use."""
        shares, self._shares = self._shares, {}
        for share in shares.values():
            if share.expiry is not None:
                share.expiry.cancel()
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            await tasks.__aexit__(kind, exc, traceback)

    @property
    def running(self) -> dict[K, T]:
        """The things that run now, by key."""
        return {key: share.thing for key, share in self._shares.items()}

    def get(self, key: K) -> T | None:
        """The thing that runs for `key` now, without using it."""
        share = self._shares.get(key)
        return share.thing if share is not None else None

    @asynccontextmanager
    async def use(
        self, key: K, name: str, make: Callable[[], tuple[T, Coroutine[Any, Any, Any]]]
    ) -> AsyncGenerator[T, None]:
        """The thing for `key`, for as long as the block lasts.

        Args:
            key: All users with an equal key share one thing.
            name: The name of the task.
            make: Makes the thing, and the work that it does in the background.

        Raises:
            RuntimeError: Not entered, or left already.
        """
        if self._tasks is None:
            raise RuntimeError(f"{self._name} is not open: there can be no {name}")
        share = self._shares.get(key)
        if share is None or share.task.done():
            thing, work = make()
            # In an empty context: the first user may be a handler, and the work must not
            # inherit the deadline of its call.
            task = contextvars.Context().run(self._tasks.start, work, name)
            share = self._shares[key] = _Share(thing, task)
        if share.expiry is not None:
            share.expiry.cancel()
            share.expiry = None
        share.users += 1
        try:
            yield share.thing
        finally:
            share.users -= 1
            if not share.users and self._shares.get(key) is share:
                if self._linger is None:
                    self._end(key, share)
                    await asyncio.wait([share.task])
                elif not share.task.done() and (seconds := self._linger(share.thing)) > 0:
                    loop = asyncio.get_running_loop()
                    share.expiry = loop.call_later(seconds, self._end, key, share)
                else:
                    self._end(key, share)

    def _end(self, key: K, share: _Share[T]) -> None:
        # First out of the table: while the task is being cancelled, nobody shall still read
        # from the thing.
        if self._shares.get(key) is share:
            del self._shares[key]
        share.task.cancel()
