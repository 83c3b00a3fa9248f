"""All services that are watched in one namespace: each by a watch of its own, or many by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pymicro.base.backoff import Backoff
from pymicro.base.endless import endless
from pymicro.base.errors import ConfigError
from pymicro.base.latest import Latest
from pymicro.base.loggers import logger
from pymicro.kubernetes.api.decision import is_outage
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.query import ObjectQuery
from pymicro.kubernetes.api.split import Split
from pymicro.kubernetes.cluster.wanted import Source, Wanted
from pymicro.nodes.node import Node

__all__ = ["Common", "Neighbours", "SharingRules"]

log = logger("pymicro.kubenodes")


@dataclass(frozen=True, kw_only=True, slots=True)
class SharingRules:
    """When the services of a namespace share one watch.

    Attributes:
        handful: So many services have a watch each. Past it they share one: each watch holds a
            connection to the API server, and thousands of clients watch.
        few: With so many left, each has its own again.
        settle: Seconds that we wait for more newcomers before we change anything.
        quiet: Seconds without a newcomer, until those with a watch of their own join the shared
            one. A wider watch lists anew, so it waits for company.
        foreign: The most objects of strangers for each watch that is saved, where the shared
            watch brings those too. A watch costs the API server some 90 KB of memory and 8 to 50
            requests an hour; a pod is listed twice an hour and has some 7 KB
            (benchmarks/README.md).
        list_limit: Seconds for the list of a shared watch. One that takes longer keeps everybody
            waiting for the one service that is so large.
        again: Seconds until a shared watch is tried again after it was not worth it, or failed;
            doubled each time.
        again_limit: The longest of these pauses.
    """

    handful: int = 5
    few: int = 2
    settle: float = 0.1
    quiet: float = 10.0
    foreign: int = 100
    list_limit: float = 5.0
    again: float = 60.0
    again_limit: float = 3600.0


@dataclass(frozen=True, slots=True)
class Common:
    """A watch that brings the objects of several services.

    Attributes:
        query: Selects at least these objects.
        split: Divides them; its parts are the services.
        exact: Whether it brings nothing else.
    """

    query: ObjectQuery
    split: Split[tuple[Node, ...]]
    exact: bool

    def covers(self, wanted: Wanted) -> bool:
        """Whether a service is one of them."""
        return wanted.part in self.split.parts


# Finds the one watch for several services.
Uniting = Callable[[Sequence[Wanted]], Common]
# Counts all objects where a query looks, whatever it selects; raises KubeError or ConfigError.
Counting = Callable[[ObjectQuery], Awaitable[int]]


class _Neighbour:
    """One service, and the watch that is chosen for it."""

    def __init__(self, wanted: Wanted, failed: Callable[[Source, KubeError], None]) -> None:
        self.wanted = wanted
        self.size = 0
        self.source: Source | None = None
        self.news: Latest[Source] = Latest()
        self._failed = failed

    def choose(self, source: Source) -> None:
        if source != self.source:
            self.source = source
            self.news.set(source)

    def sources(self) -> AsyncGenerator[Source, None]:
        return self.news.follow()

    def failed(self, source: Source, error: KubeError) -> None:
        self._failed(source, error)


class Neighbours:
    """Chooses, for each service watched in a namespace, the watch of the API that brings its objects.

    A handful of services have a watch each. Past that, one watch brings the objects of all of
    them (`SharingRules` says when exactly). What is chosen anew takes over only when it has
    listed (`Changeover`), so that changes lose no event and empty no set.

    Services that share a connection share nothing else. Each has a table, followers and complaints
    of its own (`SplitTable`). Only a failure of the server or the network reaches all of them, and
    that would reach all of their own watches too. A shared watch that fails in any other way, or
    that lists too slowly (somebody has made one service too large), is left at once for watches
    of their own.

    Args:
        place: Names the namespace in the log.
        unite: Finds the one watch for several services.
        count: Counts what a watch that is not exact may bring.
        rules: When to do what.
        clock: Seconds of a monotonic clock.
    """

    def __init__(
        self,
        place: str,
        unite: Uniting,
        count: Counting,
        *,
        rules: SharingRules,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = place
        self._unite = unite
        self._count = count
        self._rules = rules
        self._clock = clock
        self._members: list[_Neighbour] = []
        self._common: Common | None = None
        # Before this moment nothing is shared.
        self._barred_until = float("-inf")
        self._bar = rules.again
        self._shared_at = float("-inf")
        self._joined_at = float("-inf")
        # Whether all is arranged for those who are here now, and when to look again even so.
        self._arranged = True
        self._look_at = float("inf")
        self._news = asyncio.Event()
        # Newcomers hear of an outage when we ask again.
        self._backoff = Backoff(0.8, 10.0)

    @contextmanager
    def join(self, wanted: Wanted) -> Iterator[_Neighbour]:
        """A service is watched, for as long as the block lasts."""
        member = _Neighbour(wanted, self._failed)
        self._members.append(member)
        self._joined_at = self._clock()
        own = sum(one.source is None or not one.source.shared for one in self._members)
        if self._common is not None and self._common.covers(wanted):
            member.choose(self._source(self._common, wanted))
        elif own <= self._rules.handful or self._joined_at < self._barred_until:
            member.choose(wanted.own_source)
        # Any other waits a moment for the watch that it will share, instead of opening one more.
        self._look()
        try:
            yield member
        finally:
            self._members.remove(member)
            self._look()

    def run(self) -> Coroutine[Any, Any, None]:
        """Choose, until cancelled; nothing that happens ends it."""
        return endless(self._turn, what=f"sharing watches {self._place}", log=log, pause=1.0)

    def _look(self) -> None:
        self._arranged = False
        self._news.set()

    async def _turn(self) -> float:
        if self._arranged:
            wait = self._look_at - self._clock()
            try:
                async with asyncio.timeout(None if wait == float("inf") else max(wait, 0.0)):
                    await self._news.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(self._rules.settle)
        self._news.clear()
        self._look_at = float("inf")
        self._arranged = True
        try:
            return await self._arrange()
        except BaseException:
            self._arranged = False
            raise

    async def _arrange(self) -> float:
        """Choose for everybody; returns the seconds to wait before looking again in any case."""
        rules = self._rules
        now = self._clock()
        services = {member.wanted for member in self._members}
        if now < self._barred_until:
            if len(services) > rules.handful:
                self._look_at = self._barred_until
            return self._part()
        if len(services) <= (rules.handful if self._common is None else rules.few):
            return self._part()
        late = [one for one in self._members if self._common is None or not self._common.covers(one.wanted)]
        if late and not self._is_time_for(late):
            self._look_at = self._joined_at + rules.quiet
            late = []
        if late:
            common = self._unite(sorted(services, key=lambda wanted: wanted.service))
            if not common.exact and (answer := await self._is_worth(common)) is not True:
                return self._part() if answer is False else answer
            if self._common is None:
                log.info("%s: one watch for %d services", self._place, len(services))
                self._shared_at = self._clock()
            self._common = common
        if self._common is not None:
            for member in self._members:
                if self._common.covers(member.wanted):
                    member.choose(self._source(self._common, member.wanted))
        return 0.0

    def _is_time_for(self, late: Sequence[_Neighbour]) -> bool:
        """Whether the shared watch is made anew for those whom it lacks."""
        return (
            self._common is None
            or len(late) > self._rules.handful
            or any(one.source is None for one in late)
            or self._clock() >= self._joined_at + self._rules.quiet
        )

    def _part(self) -> float:
        """Everybody has a watch of their own."""
        self._common = None
        for member in self._members:
            member.choose(member.wanted.own_source)
        return 0.0

    async def _is_worth(self, common: Common) -> bool | float:
        """Whether a watch brings few enough objects of strangers; seconds to wait, if it is not known."""
        try:
            there = await self._count(common.query)
        except (KubeError, ConfigError) as exc:
            error = exc if isinstance(exc, KubeError) else KubeError(str(exc), kind="config")
            if not is_outage(error) or error.kind == "forbidden":
                # The server answers, but not this.
                self._forbid(f"it cannot be told how much that brings: {error}")
                return False
            for member in self._members:
                if member.source is None:
                    member.news.fail(error)
            self._arranged = False
            return self._backoff.next()
        self._backoff.reset()
        known = sum(member.size for member in self._members)
        saved = len(common.split.parts) - 1
        if there - known <= self._rules.foreign * saved:
            return True
        self._forbid(f"it would bring {there} objects, and only {known} of them are wanted")
        return False

    def _source(self, common: Common, wanted: Wanted) -> Source:
        return Source(common.query, common.split, wanted.service, self._rules.list_limit)

    def _failed(self, source: Source, error: KubeError) -> None:
        """A watch fails; those of their own are nobody else's business."""
        common = self._common
        if common is None or is_outage(error) or (source.query, source.split) != (common.query, common.split):
            return
        self._forbid(f"it fails: {error}")
        self._common = None
        self._look()

    def _forbid(self, why: str) -> None:
        """Share nothing for a while."""
        if self._common is not None and self._clock() - self._shared_at >= self._bar:
            # It went well for long.
            self._bar = self._rules.again
        log.info(
            "%s: a watch for each service and not one for all, for the next %.0f s: %s",
            self._place,
            self._bar,
            why,
        )
        self._barred_until = self._look_at = self._clock() + self._bar
        self._bar = min(2 * self._bar, self._rules.again_limit)
