"""One reflector for all in this process who ask for the same."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from pymicro.base.tasks import Tasks
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.query import Query
from pymicro.kubernetes.api.reflector import Reflector
from pymicro.kubernetes.api.timing import Timing

__all__ = ["Reflectors"]

T = TypeVar("T")

_DEFAULT = Timing()


@dataclass(slots=True)
class _Shared:
    reflector: Reflector[Any]
    task: asyncio.Task[None]
    users: int = 0


class Reflectors:
    """Runs one reflector per query and parser, from its first user's coming to its last one's going.

    `async with` it, within the client's own.

    Args:
        client: Asks; neither entered nor left here.
        timing: For all reflectors.
    """

    def __init__(self, client: KubeClient, *, timing: Timing = _DEFAULT) -> None:
        self._client = client
        self._timing = timing
        self._shared: dict[tuple[Query, Callable[..., Any]], _Shared] = {}
        self._tasks: Tasks | None = None

    async def __aenter__(self) -> Self:
        self._tasks = await Tasks("pymicro reflectors").__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop every reflector and end every follower's loop."""
        self._shared.clear()
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            await tasks.__aexit__(kind, exc, traceback)

    @property
    def running(self) -> tuple[Reflector[Any], ...]:
        """Those that run now, to look at their state."""
        return tuple(shared.reflector for shared in self._shared.values())

    @asynccontextmanager
    async def use(
        self, query: Query, parse: Callable[[Mapping[str, Any]], T | None]
    ) -> AsyncGenerator[Reflector[T], None]:
        """The running reflector for `query`; it stops when the last of its users has left.

        Args:
            query: What to reflect.
            parse: As `Reflector` takes it. Reflectors are shared where this is equal, so
                pass the same function, or a bound method of an object that is the same.

        Raises:
            RuntimeError: Not entered, or left already.
        """
        if self._tasks is None:
            raise RuntimeError("the reflectors are not running")
        key = (query, parse)
        shared = self._shared.get(key)
        if shared is None:
            reflector = Reflector(self._client, query, parse, timing=self._timing)
            # In an empty context: whoever asks first may be a handler, whose deadline is not ours.
            task = contextvars.Context().run(self._tasks.start, reflector.run(), f"reflector of {query}")
            shared = self._shared[key] = _Shared(reflector, task)
        shared.users += 1
        try:
            yield shared.reflector
        finally:
            shared.users -= 1
            if not shared.users and self._shared.get(key) is shared:
                # Whoever comes next gets a new one; this one publishes nothing any more.
                del self._shared[key]
                shared.task.cancel()
                await asyncio.wait([shared.task])
