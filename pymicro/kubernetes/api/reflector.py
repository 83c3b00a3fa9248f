"""Keeps a copy of a collection of the Kubernetes API in step with the server."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar

from pymicro.base.endless import being_cancelled, endless
from pymicro.base.errors import ConfigError
from pymicro.base.latest import Gathering, Latest
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.base.turns import Turns
from pymicro.base.watches import Watches, WatchRecord
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.decision import AttemptOutcome, Standing, decide
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.events import ends_initial_events, is_older, read_event
from pymicro.kubernetes.api.lines import Lines
from pymicro.kubernetes.api.pages import Page
from pymicro.kubernetes.api.query import ObjectQuery
from pymicro.kubernetes.api.resource import Asked
from pymicro.kubernetes.api.split import WHOLE, Split, SplitTable
from pymicro.kubernetes.api.state import ReflectorState
from pymicro.kubernetes.api.status import refusal
from pymicro.kubernetes.api.table import version_of
from pymicro.kubernetes.api.timing import ReflectorTiming

__all__ = ["ObjectQuery", "Reflector", "ReflectorState", "ReflectorTiming"]

log = logger("pymicro.kube")

T = TypeVar("T")

_DEFAULT = ReflectorTiming()

# Seconds. A server keeps the agreed length of a watch by its own clock.
EARLY = 2.0


class _NoStreamingList(Exception):
    """The server cannot stream a list now: ask for pages."""

    def __init__(self, error: KubeError, *, remember: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.remember = remember


class _Attempt:
    """What one attempt has come to so far."""

    def __init__(self) -> None:
        self.stage: Literal["list", "asked", "open"] = "list"
        self.listed = False
        self.events = False
        self.opened = 0.0
        # Whether the server has said anything, and until when the list has to be complete.
        self.heard = False
        self.list_until = float("inf")
        # Until when the server was asked to hold the watch, and whether we have left it ourselves.
        self.agreed = float("inf")
        self.left = False


class Reflector(Generic[T]):
    """The objects of a query as small values, kept in step by list and watch.

    It lists (by streaming if the server can, otherwise in pages), then watches from the list's
    version. It lists again when that version has expired or half an hour has passed. A list
    replaces everything at once. After any failure, be it a bug of ours, the reflector tries
    again and keeps what it knows; `decision` says when, and from where.

    Args:
        client: Sends the requests.
        query: The objects.
        parse: Turns an object, as the API's JSON has it, into the value to keep. It must not
            keep the object itself (10 KB each). It returns None for one of no interest, and
            raises ValueError for a bad one, which is skipped, counted, and logged once. Or a
            `Split`, if several users read the collection together, each a part of it.
        timing: All lengths of time.
        list_limit: Seconds that a list may take in all, if the server answers: one that takes
            longer has failed, with the kind `slow`. Nothing limits it by default.
        record: Where it writes down how it fares; it ends it.
        clock: Seconds of a monotonic clock.
        sleep: Waits before the next try.
        uniform: Source of randomness, `(low, high) -> value`.
    """

    def __init__(
        self,
        client: KubeClient,
        query: ObjectQuery,
        parse: Callable[[Mapping[str, Any]], T | None] | Split[T],
        *,
        timing: ReflectorTiming = _DEFAULT,
        list_limit: float = float("inf"),
        record: WatchRecord | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.query = query
        self._client = client
        self._timing = timing
        self._list_limit = list_limit
        self._record = record or Watches(clock).begin(str(query))
        self._clock = clock
        self._sleep = sleep
        self._uniform = uniform
        split = parse if isinstance(parse, Split) else Split.whole(parse)
        self._table: SplitTable[T] = SplitTable(split, str(query))
        self._latest: dict[str, Latest[Mapping[str, T]]] = {part.name: Latest() for part in split.parts}
        # Whether the next publication also confirms what has not changed.
        self._confirming = True
        self._gathering = Gathering(self._publish, timing.gather)
        # The last failure that nobody had thought of, which the log has.
        self._odd = ""
        # The present failure, once followers have heard of it.
        self._failure: KubeError | None = None
        self._attempt = _Attempt()
        self._standing = Standing()
        # Whether to ask first if the server has ever been at our version.
        self._doubtful = False
        # Whether lists stand in for a watch that does not work.
        self._polling = False
        # Empty: the next attempt must list everything.
        self._version = ""
        self._resync_at = 0.0
        # Before this moment we do not ask for a streaming list.
        self._stream_at = 0.0
        self._streaming_list: bool | None = None
        self._last_sync: float | None = None
        self._last_heard: float | None = None
        self._lists = self._watches = self._restarts = 0
        self._errors: Counter[str] = Counter()

    @property
    def state(self) -> ReflectorState:
        """How the reflector fares now."""
        return ReflectorState(
            synced=self._last_sync is not None,
            objects=self._table.count,
            last_sync=self._last_sync,
            last_heard=self._last_heard,
            resource_version=self._version,
            lists=self._lists,
            watches=self._watches,
            restarts=self._restarts,
            errors=dict(self._errors),
            skipped=self._table.skipped,
            failure=self._failure,
            streaming_list=self._streaming_list,
        )

    @property
    def version(self) -> str:
        """The version that the values are of; empty while everything must be listed."""
        return self._version

    def follow(self, part: str = WHOLE) -> AsyncGenerator[Mapping[str, T], None]:
        """The values by uid: once all are known, after each change, and when they are confirmed.

        `part` names a part of the `Split`; changes of the others do not show.

        The mapping is a view of all values, not a copy: use it before the next await. A lone
        change comes at once. Several changes are gathered for `ReflectorTiming.gather`, and a
        slow follower sees the newest only. The same values may come again: they were still so
        at that moment. The iterator ends when the reflector does.

        Raises:
            KubeError: The copy can no longer be kept in step. Followers get it when that begins.
                A later follower gets it when the next try fails, so that nobody takes an old
                copy for a fresh one. Follow again to learn when it works. A watch that breaks
                and comes back with the next try is no failure.
        """
        return self._latest[part].follow()

    async def run(self) -> None:
        """Do the work until cancelled: nothing that happens to it ends it."""
        try:
            pause = self._timing.backoff_maximum
            await endless(self._turn, what=str(self.query), log=log, pause=pause, sleep=self._sleep)
        finally:
            self._record.end()
            self._gathering.cancel()
            for latest in self._latest.values():
                latest.close()

    async def _turn(self) -> float:
        """One attempt; returns how long to wait before the next."""
        self._attempt = _Attempt()
        self._attempt.list_until = self._clock() + self._list_limit
        try:
            await self._try()
        except KubeError as exc:
            return self._end(exc)
        except ConfigError as exc:
            # There is no cluster: followers shall hear why, and a kubeconfig may still appear.
            return self._end(KubeError(str(exc), kind="config"))
        except (Exception, asyncio.CancelledError) as exc:
            if being_cancelled():
                raise
            if repr(exc) != self._odd:
                self._odd = repr(exc)
                log.exception("%s: something failed in an unforeseen way", self.query)
            return self._end(KubeError(f"{self.query}: {excerpt(exc, 1000)}", kind="unexpected"))
        return self._end(None)

    # Requests

    async def _try(self) -> None:
        """List if necessary, then watch until the watch ends."""
        if self._version and self._clock() < self._resync_at:
            self._attempt.stage = "asked"
            if self._doubtful:
                await self._check_version()
            await self._watch()
            return
        refused: _NoStreamingList | None = None
        if self._standing.doubts < 2 and self._clock() >= self._stream_at:
            try:
                await self._stream_list()
                return
            except _NoStreamingList as exc:
                refused = exc
                self._errors[exc.error.kind] += 1
                log.debug("%s: no streaming list (%s); asking for pages", self.query, exc)
        await self._list_pages()
        if refused is not None and refused.remember:
            # Not before the pages came: a server that does not answer at all has refused nothing.
            self._streaming_list = False
            self._stream_at = self._clock() + self._timing.stream_list_retry
        await self._watch()

    async def _check_version(self) -> None:
        """Check that the server has ever been at our version.

        After a restore of etcd from a backup it may never have been, and a watch from a future
        version says nothing. Nor does a watch of a collection in which nothing happens: the
        server's cache has no bookmark for a watch that began at the current version.
        """
        params = {"limit": "1"}
        timeout = self._timing.page_timeout
        found = await self._client.request("GET", self.query.path, params=params, timeout=timeout)
        self._last_heard = self._clock()
        self._record.heard()
        if isinstance(found, dict):
            self._compare(version_of(found))
        self._doubtful = False

    async def _list_pages(self) -> None:
        """A consistent list, page by page."""
        table = self._table.successor()
        version = proceed = ""
        while True:
            try:
                body = await self._client.read(
                    "GET",
                    self.query.path,
                    params=self.query.page(self._timing.page_size, proceed),
                    timeout=self._timing.page_timeout,
                )
            except KubeError as error:
                if error.status == 429:
                    # The pages that we have stay good.
                    await self._sleep(self._end(error))
                    continue
                if error.kind == "timeout":
                    self._hurry()
                # An expired `continue` is like any expired version: list anew.
                raise
            self._heard()
            page = await self._read_page(body, table)
            self._hurry()
            # All pages have the first one's version.
            version = version or page.resource_version
            if not page.proceed:
                break
            if page.proceed == proceed:
                raise KubeError(f"the list of {self.query} does not go on", kind="malformed")
            proceed = page.proceed
        if not version:
            # Without a version a watch could begin anywhere.
            raise KubeError(f"the list of {self.query} has no resourceVersion", kind="malformed")
        self._synced(table, version)

    def _hurry(self) -> None:
        """Check that the list does not take longer than it may.

        A server that does not answer at all is away, and not slow.
        """
        if self._attempt.heard and self._clock() > self._attempt.list_until:
            what = f"the list of {self.query} takes longer than {self._list_limit:g} s"
            raise KubeError(what, kind="slow")

    async def _read_page(self, body: bytes, table: SplitTable[T]) -> Page:
        turns = Turns(self._timing.yield_after)
        try:
            page = Page(body)
            for found in page.objects():
                if isinstance(found, dict):
                    table.put(found)
                await turns.give()
        except (ValueError, RecursionError) as exc:
            raise KubeError(
                f"a page of {self.query} cannot be read: {excerpt(exc, 1000)}", kind="malformed"
            ) from exc
        return page

    async def _stream_list(self) -> None:
        """A list that comes as events, and the watch that follows it."""
        seconds = self._watch_seconds()
        params = self.query.stream_list(seconds)
        wait = self._timing.stream_list_wait
        begun = False
        try:
            async with self._client.stream(
                self.query.path, params, connect_timeout=wait, idle_timeout=wait
            ) as lines:
                begun = True
                await self._read_initial(lines, params)
                lines.idle_timeout = self._timing.idle_limit
                self._streaming_list = True
                await self._read(lines, params, seconds)
        except KubeError as error:
            if self._attempt.stage == "open" or error.status in (401, 403, 429):
                raise
            if error.kind == "slow":
                raise
            if begun or error.expired:
                # Other failures may be faults of the moment, and the next streaming list may work.
                remember = error.kind in ("idle", "malformed", "refused")
            elif error.kind == "timeout" or 400 <= error.status < 500:
                remember = True
            else:
                raise
            raise _NoStreamingList(error, remember=remember) from error

    async def _read_initial(self, lines: Lines, params: Mapping[str, str]) -> None:
        """Read events up to the bookmark that ends the list."""
        table = self._table.successor()
        turns = Turns(self._timing.yield_after)
        limit = self._clock() + self._timing.stream_list_limit
        async for line in lines:
            self._attempt.heard = True
            kind, found = read_event(line)
            if kind in ("ADDED", "MODIFIED"):
                table.put(found)
            elif kind == "DELETED":
                table.drop(found)
            elif kind == "ERROR":
                error = self._refused(params, found)
                if not error.expired and error.status not in (401, 403, 429):
                    # This is a refusal whatever its status: an etcd without progress requests gives a 5xx.
                    error.kind = "refused"
                raise error
            elif kind == "BOOKMARK" and ends_initial_events(found):
                version = version_of(found)
                if not version:
                    break
                self._synced(table, version)
                self._opened()
                return
            if self._clock() >= limit:
                break
            self._hurry()
            await turns.give()
        raise KubeError(f"the streaming list of {self.query} did not end as one", kind="refused")

    async def _watch(self) -> None:
        """Watch from our version until the watch ends."""
        self._attempt.stage = "asked"
        seconds = self._watch_seconds()
        params = self.query.watch(self._version, seconds)
        async with self._client.stream(
            self.query.path,
            params,
            connect_timeout=self._timing.connect_timeout,
            idle_timeout=self._timing.idle_limit,
        ) as lines:
            self._opened()
            # Tell followers that it works again, but later: an expired version is reported by the
            # first event, and the changes that we missed come now too.
            self._confirm()
            await self._read(lines, params, seconds)

    async def _read(self, lines: Lines, params: Mapping[str, str], seconds: int) -> None:
        turns = Turns(self._timing.yield_after)
        # A server that never ends its watch must not keep us from listing again.
        self._attempt.agreed = self._clock() + seconds
        until = min(self._attempt.agreed + self._timing.watch_overrun, self._resync_at)
        async for line in lines:
            kind, found = read_event(line)
            if kind == "ERROR":
                raise self._refused(params, found)
            self._take(kind, found)
            if self._clock() >= until:
                self._attempt.left = True
                return
            await turns.give()

    def _take(self, kind: str, found: Mapping[str, Any]) -> None:
        """Handle one event of a watch."""
        version = version_of(found)
        self._compare(version)
        self._version = version or self._version
        self._attempt.events = True
        self._last_heard = self._clock()
        self._record.heard()
        if kind == "BOOKMARK":
            self._confirm()
        elif kind in ("ADDED", "MODIFIED"):
            if self._table.put(found):
                self._gathering.soon()
        # We go by the event's type: an object that lost its label still shows the old labels.
        elif kind == "DELETED" and self._table.drop(found):
            self._gathering.soon()

    def _compare(self, version: str) -> None:
        if is_older(version, self._version):
            # etcd was restored, or this server lags behind the one before. Only a list can tell
            # which of the two histories holds.
            what = f"{self.query}: the version went back from {self._version} to {version}"
            raise KubeError(what, kind="backwards")

    # Results

    def _heard(self) -> None:
        self._last_heard = self._clock()
        self._record.heard()
        self._attempt.heard = True

    def _confirm(self) -> None:
        """Tell followers soon that everything is still so, together with the changes until then."""
        self._confirming = True
        self._gathering.later()

    def _synced(self, table: SplitTable[T], version: str) -> None:
        """A list is complete: objects that it lacks are gone."""
        table.complete()
        self._table = table
        self._version = version
        self._attempt.listed = True
        self._last_sync = self._last_heard = self._clock()
        self._lists += 1
        self._record.listed()
        self._record.resumes = True
        spread = self._timing.resync * self._timing.resync_jitter
        self._resync_at = self._last_sync + self._timing.resync + self._uniform(-spread, spread)
        self._confirming = True
        self._gathering.now()

    def _publish(self) -> None:
        """Show the objects to followers; after a failure this says that it works again."""
        if self._failure is not None:
            log.info("%s: the API works again", self.query)
            self._failure = None
            self._confirming = True
        parts = self._latest if self._confirming else self._table.changed
        for part in parts:
            self._latest[part].set(MappingProxyType(self._table.objects(part)))
        self._confirming = False
        self._table.changed.clear()

    def _opened(self) -> None:
        """A watch was accepted, or goes on from a streaming list."""
        self._attempt.stage = "open"
        self._attempt.opened = self._last_heard = self._clock()
        self._watches += 1
        self._record.opened()

    def _end(self, error: KubeError | None) -> float:
        """Do what `decide` says about the present attempt; returns how long to wait before the next."""
        attempt = self._attempt
        opened = attempt.stage == "open"
        outcome = AttemptOutcome(
            stage=attempt.stage,
            error=error,
            listed=attempt.listed,
            events=attempt.events,
            lived=self._clock() - attempt.opened if opened else 0.0,
        )
        decision = decide(outcome, self._standing, self._timing)
        self._standing = decision.standing
        self._doubtful |= decision.check
        if error is None and decision.failed:
            error = KubeError(f"the watch of {self.query} ended at once", kind="short")
        if error is not None:
            self._errors[error.kind] += 1
            self._restarts += opened
            if not decision.good:
                self._version = ""
            if decision.tell:
                self._tell(error)
            elif self._failure is not None:
                # It does not work yet, although it looked so.
                self._gathering.cancel()
        self._write_down(opened, error)
        self._poll(decision.failed and attempt.listed and self._standing.doubts > 1, error)
        return decision.pause + self._uniform(0.0, decision.jitter)

    def _write_down(self, opened: bool, error: KubeError | None) -> None:
        record = self._record
        record.resumes = bool(self._version)
        if not opened:
            if error is not None:
                record.failed(str(error))
        elif error is not None:
            record.cut(error.kind, str(error))
        elif self._attempt.left or self._clock() >= self._attempt.agreed - EARLY:
            record.ended()
        else:
            # Politely, as some proxies do; the server itself only when it stops.
            record.cut("early", f"the watch of {self.query} was ended before its time")

    def _poll(self, polling: bool, error: KubeError | None) -> None:
        """Say once that lists stand in for a watch that does not work, and once that it does."""
        if polling and not self._polling:
            log.warning("%s: lists take the place of its watch, which does not work: %s", self.query, error)
        elif self._polling and not self._standing.doubts:
            log.info("%s: its watch works again", self.query)
        self._polling = polling or (self._polling and self._standing.doubts > 0)

    def _tell(self, error: KubeError) -> None:
        before = self._failure
        if before is None or before.kind != error.kind:
            # Failures that never mend by themselves are loud.
            loud = error.kind in ("forbidden", "unauthorized", "config", "credentials")
            count = self._table.count
            kept = "none known yet" if self._last_sync is None else f"keeping {count} of them"
            # The error comes last: it may end in a rule that stands on lines of its own.
            log.log(
                logging.ERROR if loud else logging.INFO, "%s (%s, trying again): %s", self.query, kept, error
            )
        # The changes to publish stay in the table until it works again.
        self._gathering.cancel()
        self._failure = error
        for latest in self._latest.values():
            latest.fail(error)

    def _refused(self, params: Mapping[str, str], status: Mapping[str, Any]) -> KubeError:
        """The error that an ERROR event means."""
        cluster = self._client.cluster
        asked = Asked.of("GET", self.query.path, params)
        return refusal(asked, status, server=cluster.server, account=cluster.account)

    def _watch_seconds(self) -> int:
        return max(1, round(self._uniform(*self._timing.watch_timeout)))
