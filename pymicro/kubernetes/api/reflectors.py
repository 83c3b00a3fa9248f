"""Shared reflectors: all users in this process with the same query share one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from pymicro.base.sharing import Sharing
from pymicro.base.watches import Watches
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.query import ObjectQuery
from pymicro.kubernetes.api.reflector import Reflector
from pymicro.kubernetes.api.split import Split
from pymicro.kubernetes.api.timing import ReflectorTiming

__all__ = ["Reflectors"]

T = TypeVar("T")

_DEFAULT = ReflectorTiming()


class Reflectors:
    """Runs one reflector for each query and parser, from its first user until its last one has left.

    `async with` it, inside the client's own `async with`.

    Args:
        client: Sends the requests; the caller enters and leaves it.
        timing: For all reflectors.
        watches: Where they write down how they fare.
    """

    def __init__(
        self, client: KubeClient, *, timing: ReflectorTiming = _DEFAULT, watches: Watches | None = None
    ) -> None:
        self._client = client
        self._timing = timing
        self._watches = watches or Watches()
        self._sharing: Sharing[tuple[ObjectQuery, Callable[..., Any] | Split[Any]], Reflector[Any]] = Sharing(
            "pymicro reflectors"
        )

    async def __aenter__(self) -> Self:
        await self._sharing.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop every reflector and end every follower's loop."""
        await self._sharing.__aexit__(kind, exc, traceback)

    @property
    def running(self) -> tuple[Reflector[Any], ...]:
        """The reflectors that run now, to look at their state."""
        return tuple(self._sharing.running.values())

    @asynccontextmanager
    async def use(
        self,
        query: ObjectQuery,
        parse: Callable[[Mapping[str, Any]], T | None] | Split[T],
        *,
        list_limit: float = float("inf"),
    ) -> AsyncGenerator[Reflector[T], None]:
        """The running reflector for `query`; it stops when the last of its users has left.

        Args:
            query: What to reflect.
            parse: As `Reflector` takes it. Users share a reflector if this is equal, so pass
                the same function, or a bound method of the same object.
            list_limit: As `Reflector` takes it; that of the first user counts.

        Raises:
            RuntimeError: Not entered, or left already.
        """

        def make() -> tuple[Reflector[T], Coroutine[Any, Any, None]]:
            record = self._watches.begin(str(query))
            reflector = Reflector(
                self._client, query, parse, timing=self._timing, list_limit=list_limit, record=record
            )
            return reflector, reflector.run()

        async with self._sharing.use((query, parse), f"reflector of {query}", make) as reflector:
            yield reflector
