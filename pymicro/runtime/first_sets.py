"""Waits for the first set of nodes of named services, and keeps those sets fresh."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Self

from pymicro.base.backoff import Backoff
from pymicro.base.closing import closing
from pymicro.base.endless import endless
from pymicro.base.errors import ConfigError, RegistryError
from pymicro.base.loggers import logger
from pymicro.base.tasks import Tasks
from pymicro.nodes.node import NodeSet

__all__ = ["FirstSets"]

log = logger("pymicro.client")

# Seconds until a source that failed is asked again.
_RETRY = 5.0


class FirstSets:
    """Follows services from the start on, so that it is known when each was heard of.

    An empty set counts too: two services that wait for each other would else never be ready.

    Args:
        services: Their names.
        watch: Gives the node sets of one.

    Attributes:
        missing: The services of which no set has come yet, in the order given.
    """

    def __init__(self, services: Iterable[str], watch: Callable[[str], AsyncIterator[NodeSet]]) -> None:
        self.missing: tuple[str, ...] = tuple(dict.fromkeys(services))
        self._watch = watch
        self._tasks = Tasks("first sets")

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        for service in self.missing:
            self._tasks.start(self._follow(service), service)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._tasks.__aexit__(kind, exc, traceback)

    async def _follow(self, service: str) -> None:
        backoff = Backoff(0.1, _RETRY)
        told = ""

        async def turn() -> float:
            nonlocal told
            try:
                async with closing(self._watch(service)) as sets:
                    async for _ in sets:
                        self.missing = tuple(name for name in self.missing if name != service)
                        backoff.reset()
            except (RegistryError, ConfigError) as exc:
                if str(exc) != told:
                    told = str(exc)
                    log.warning("ready_after: %s: %s; trying again", service, exc)
            return backoff.next()

        await endless(turn, what=f"ready_after: the watch of {service}", log=log, pause=_RETRY)
