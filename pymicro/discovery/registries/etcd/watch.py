"""One service's node sets: it reads all keys, then watches them from that revision on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

from pymicro.base.backoff import Backoff
from pymicro.base.endless import being_cancelled, endless
from pymicro.base.errors import RegistryError
from pymicro.base.latest import Gathering, Latest
from pymicro.base.loggers import logger
from pymicro.base.turns import Turns
from pymicro.base.watches import WatchRecord
from pymicro.discovery.registries.etcd.client import EtcdClient, watching
from pymicro.discovery.registries.etcd.errors import EtcdError, Kind, denied
from pymicro.discovery.registries.etcd.members import Stream
from pymicro.discovery.registries.etcd.table import (
    ServiceTable,
    Unreadable,
    ValueReading,
    read_value,
)
from pymicro.nodes.node import NodeSet

__all__ = ["EtcdWatch", "Told"]

log = logger("pymicro.registry.etcd")

_DELETE = 1
# etcd refuses a watch with these if the token has run out; before 3.6 it calls all of it denied.
_DENIED = "permission denied"
_DOUBTFUL = (_DENIED, "invalid auth token", "revision of auth store is old", "user name is empty")

# Seconds until the first question for progress. It comes soon: silence means something only
# after a question was answered.
_FIRST_QUESTION = 1.0

# For so many services at most we remember which failure watchers were told.
_MOST_TOLD = 1000


class Told:
    """The failure of each service that watchers were told, until the service works again.

    A watcher that is told of a failure watches again with growing pauses. To use etcd as soon
    as it is back, a watch that meets the service's known failure says nothing for a while and
    tries again itself.
    """

    def __init__(self) -> None:
        self._kinds: dict[str, Kind] = {}

    def is_news(self, service: str, kind: Kind) -> bool:
        """Whether no watcher of this service has heard of such a failure."""
        return self._kinds.get(service) != kind

    def tell(self, service: str, kind: Kind) -> None:
        """Note that a watcher is being told."""
        if len(self._kinds) >= _MOST_TOLD:
            self._kinds.clear()
        self._kinds[service] = kind

    def works(self, service: str) -> None:
        """Forget the failure: the next one is news."""
        self._kinds.pop(service, None)


class EtcdWatch:
    """Follows the keys of one service until it is cancelled, or has failed.

    When a watch ends, be it by a member that stops, a compaction or silence, it reads all
    keys again. The next watch begins at the revision of that reading, so that no change in
    between is lost.

    Args:
        client: Sends the requests.
        service: The service.
        prefix: The prefix of its keys.
        unreadable: Notes values that are no records.
        told: Notes the failures that watchers were told.
        record: Where it writes down how it fares.

    Attributes:
        latest: The newest set, or why no more sets come.
    """

    def __init__(
        self,
        client: EtcdClient,
        service: str,
        prefix: str,
        unreadable: Unreadable,
        told: Told,
        record: WatchRecord,
    ) -> None:
        self.latest: Latest[NodeSet] = Latest()
        self._client = client
        self._timing = client.members.timing
        self._service = service
        self._prefix = prefix
        self._told = told
        self._record = record
        self._table = ServiceTable(service, unreadable)
        self._gathering = Gathering(lambda: self.latest.set(self._table.nodes()), self._timing.gather)
        self._began = time.monotonic()
        # Whether there was a set; and, after that, since when etcd is away.
        self._worked = False
        self._gone: float | None = None
        # When etcd confirmed the running watch; None while there is none.
        self._since: float | None = None
        # Whether the member has answered a question for progress. If so it has to answer
        # every time; an etcd before 3.4 does not know the question.
        self._answers = False
        # Whether we met a denial that a fresh token may end.
        self._doubted = False
        # Why the last watch ended, if that was no error; a word for counting.
        self._why = ""

    async def run(self) -> None:
        """Follow until cancelled, or until watchers must hear of a failure; that closes `latest`."""
        try:
            await self._follow()
        except (Exception, asyncio.CancelledError) as exc:
            if being_cancelled():
                raise
            # This is a bug of ours; watchers must not wait for ever.
            log.exception("the watch of %s died of a bug", self._service)
            self.latest.close(RegistryError(f"registry etcd: {type(exc).__name__}: {exc}"))
        finally:
            self._gathering.cancel()

    async def _follow(self) -> None:
        timing = self._timing
        backoff = Backoff(timing.backoff_initial, timing.backoff_maximum, floor=timing.backoff_initial / 4)
        while True:
            self._since, self._answers = None, False
            error: EtcdError | None = None
            try:
                revision = await self._read_all()
                await self._watch(revision)
            except EtcdError as exc:
                error = exc
            self._write_down(error)
            if self._since is not None and time.monotonic() - self._since >= timing.short:
                # The watch worked until now, and may work at the next member.
                log.info("%s; reading all of it again", error or f"the watch of {self._service} ended")
                backoff.reset()
            elif error is not None and self._is_to_tell(error):
                self._told.tell(self._service, error.kind)
                self.latest.close(error)
                return
            # Also after a watch that held: thousands of them lose the same member at once.
            await asyncio.sleep(backoff.next())

    def _write_down(self, error: EtcdError | None) -> None:
        if self._since is None:
            self._record.failed(str(error or self._why))
        else:
            why = error.kind if error is not None else self._why
            self._record.cut(why, str(error or f"the watch of {self._service} ended: {self._why}"))

    def _is_to_tell(self, error: EtcdError) -> bool:
        """Whether watchers must hear of this failure; otherwise the watch just tries again."""
        now = time.monotonic()
        if error.kind in ("compacted", "too large"):
            return False  # all keys are read again, in pages as small as necessary
        if self._worked and error.kind == "away":
            self._gone = self._gone or now
            if now - self._gone < self._timing.grace:
                return False
        return self._told.is_news(self._service, error.kind) or now - self._began >= self._timing.patience

    # Reading

    async def _read_all(self) -> int:
        """Read all keys as they are; returns the revision of that reading."""
        readings: dict[str, ValueReading] = {}
        revision, turns = 0, Turns()
        async with aclosing(self._client.pages(self._prefix)) as pages:
            async for page in pages:
                revision = revision or page.header.revision
                for kv in page.kvs:
                    readings[_key_text(kv.key)] = read_value(kv.value)
                    await turns.give()
        self._table.replace(readings)
        self._worked, self._gone = True, None
        self._told.works(self._service)
        self._record.listed()
        self._gathering.now()
        return revision

    async def _watch(self, revision: int) -> None:
        """Follow what happens from `revision` on; returns when all keys must be read again at once.

        The changes at `revision` itself have been read, and change nothing when they come
        again. If we began at the next revision, etcd since 3.5.8 would answer no question for
        progress before somebody has written something (`progressIfSync`).

        Raises:
            EtcdError: The watch ended, was denied, or is silent.
        """
        timeout = self._client.members.timeout
        async with self._client.watch(self._prefix) as stream:
            try:
                async with asyncio.timeout(timeout) as limit:
                    await stream.write(self._client.watch_request(self._prefix, revision))
                    async with self._asking(stream):
                        while await self._take(stream, limit, revision):
                            pass
            except TimeoutError:
                if self._since is None:
                    why = f"no answer within {timeout:g} s"
                else:
                    why = f"it was silent for {self._timing.progress + self._timing.progress_timeout:g} s"
                raise stream.fail(why) from None

    async def _take(self, stream: Stream, limit: asyncio.Timeout, revision: int) -> bool:
        """Take one response with all its fragments; returns whether to go on."""
        readings: dict[str, ValueReading | None] = {}
        turns = Turns()
        while True:
            response = await stream.read()
            self._record.heard()
            if response.canceled or response.compact_revision:
                return self._ended(stream, response)
            for event in response.events:
                deleted = event.type == _DELETE
                readings[_key_text(event.kv.key)] = None if deleted else read_value(event.kv.value)
                await turns.give()
            if not response.fragment:
                break
        if response.created and 0 < response.header.revision < revision:
            # This etcd started again without its data, or from a backup: nothing that we read
            # before need be true, and a watch from that revision would get nothing for long.
            log.info("the watch of %s begins anew: etcd is not the one that was read", self._service)
            self._why = "replaced"
            return False
        if response.created:
            self._since = time.monotonic()
            self._record.opened()
            self._doubted = False
        elif readings:
            self._table.update(readings)
            self._gathering.soon()
        else:
            # This is progress: everything until now has come.
            self._answers = True
            self._gathering.now()
        silence = self._timing.progress + self._timing.progress_timeout
        limit.reschedule(asyncio.get_running_loop().time() + silence if self._answers else None)
        return True

    def _ended(self, stream: Stream, response: Any) -> bool:
        """Decide what to do about a watch that etcd has ended."""
        compacted: int = response.compact_revision
        why: str = response.cancel_reason
        if compacted:
            log.info("the watch of %s begins anew: etcd has compacted %d", self._service, compacted)
            self._why = "compacted"
            return False
        if any(text in why for text in _DOUBTFUL):
            account = self._client.members.account
            if account.user and not self._doubted:
                self._doubted = True
                account.forget(stream.token)
                self._why = "token"
                return False
            if _DENIED in why:
                raise denied(watching(self._prefix), stream.endpoint, account.user)
        raise stream.fail(why or "etcd cancelled it")

    @asynccontextmanager
    async def _asking(self, stream: Stream) -> AsyncIterator[None]:
        """Ask now and then whether anything was missed, and so whether etcd is still there."""
        task = asyncio.create_task(self._ask(stream), name=f"progress of {self._service}")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    def _ask(self, stream: Stream) -> Coroutine[Any, Any, None]:
        async def ask() -> float:
            await stream.write(self._client.progress_request())
            # A member may be replaced at any time, and this watch outlives many.
            await self._client.members.learn()
            return self._timing.progress

        pause = self._timing.progress
        delay = min(pause, _FIRST_QUESTION)
        return endless(ask, what=f"a question about {self._service}", log=log, pause=pause, delay=delay)


def _key_text(key: bytes) -> str:
    return key.decode(errors="backslashreplace")
