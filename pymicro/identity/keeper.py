"""The identity of this process now: read from files, and read again when they change."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from pymicro.base.errors import ConfigError
from pymicro.base.log_quota import LogQuota
from pymicro.base.loggers import logger
from pymicro.identity.checking import identity_of, moment, need_cryptography
from pymicro.identity.files import BadCertificate, CertificateFiles
from pymicro.identity.identity import Identity
from pymicro.identity.rereading import Rereading

__all__ = ["IdentityKeeper"]

log = logger("pymicro.identity")

# A certificate of which less than this share of its time is left had better been replaced by now:
# cert-manager does that when a third is left, the kubelet likewise.
_LATE = 0.1
# Seconds between two lines that say that the certificate has expired.
_SAY_AGAIN = 3600.0


class IdentityKeeper:
    """Holds the newest good identity, and tells who listens of each new one.

    What is in the files is checked before it is used. Files that may not be used are complained about,
    and the identity before them goes on. May be entered several times, by a service and by its client:
    the last one that leaves ends it.

    Args:
        files: Where the certificates are.
        period: Seconds between two looks at them; a second if None.
        clock: Seconds since 1970.

    Attributes:
        taken: How often an identity was taken, the first one included.
        refused: How often files were found that may not be used.
        served: Handshakes with callers, by result: `ok` and `failed`, or `begun` where nobody tells how
            they end.
        called: Handshakes with nodes, by result: `ok`, or `failed` if no connection was made.
        problem: Why the files as they are now are not used; empty if they are.
    """

    def __init__(
        self,
        files: CertificateFiles,
        *,
        period: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.files = files
        self.taken = 0
        self.refused = 0
        self.served: Counter[str] = Counter()
        self.called: Counter[str] = Counter()
        self.problem = ""
        self._period = period
        self._clock = clock
        self._users = 0
        self._identity: Identity | None = None
        self._taken_at = 0.0
        self._said_late = float("-inf")
        self._listeners: list[Callable[[Identity], None]] = []
        self._rereading: Rereading[Identity] | None = None
        self._quota = LogQuota(log, "more certificate files are refused")

    @property
    def rereading(self) -> Rereading[Identity] | None:
        """What looks at the files; None before it was entered."""
        return self._rereading

    @property
    def current(self) -> Identity:
        """The identity to use now; this takes no time, and any thread may ask.

        Raises:
            RuntimeError: It was never entered.
        """
        if self._identity is None:
            raise RuntimeError("the certificates have not been read yet")
        return self._identity

    async def __aenter__(self) -> Self:
        """Read the files, and look at them from now on.

        Raises:
            ConfigError: They may not be used; the text says why.
            PluginError: The extra `tls` is not installed.
        """
        self._users += 1
        if self._users > 1:
            return self
        try:
            need_cryptography()
            try:
                self._take(await asyncio.to_thread(self._read))
            except BadCertificate as exc:
                raise ConfigError(str(exc)) from exc
        except BaseException:
            self._users -= 1
            raise
        self._rereading = Rereading(
            self._newer, self._take, self._say, name="pymicro certificates", period=self._period
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._users -= 1
        if not self._users and self._rereading is not None:
            self._rereading.close()

    def listen(self, listener: Callable[[Identity], None]) -> None:
        """Call `listener` with each new identity, in the event loop."""
        self._listeners.append(listener)

    def unlisten(self, listener: Callable[[Identity], None]) -> None:
        """Stop calling it."""
        self._listeners.remove(listener)

    def _read(self) -> Identity:
        return identity_of(self.files.read(), self._now())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _newer(self) -> Identity | None:
        """The identity in the files, if it is another one; in a thread."""
        contents = self.files.read()
        if contents.digest == self.current.digest:
            return None
        return identity_of(contents, self._now())

    def _take(self, identity: Identity) -> None:
        first = self._identity is None
        if not first and identity.digest == self.current.digest:
            return
        self._identity = identity
        self._taken_at = self._clock()
        self._said_late = float("-inf")
        self.taken += 1
        self.problem = ""
        until = "" if identity.not_after is None else f", valid until {moment(identity.not_after)}"
        log.info("%s %s%s", "certificate:" if first else "a new certificate:", identity.title, until)
        for listener in list(self._listeners):
            try:
                listener(identity)
            except Exception:
                log.exception("a new certificate could not be put to use everywhere")

    def _say(self, problem: str) -> None:
        """Say what is wrong with the files, if anything is, and that the certificate in use grows old."""
        if problem and problem != self.problem:
            self.refused += 1
            self._quota.say(logging.ERROR, "certificates are not taken, and those before go on: %s", problem)
        elif self.problem and not problem:
            log.info("the certificate files are as they were")
        self.problem = problem
        self._say_if_late()

    def _say_if_late(self) -> None:
        identity, now = self.current, self._clock()
        if identity.not_after is None or now - self._said_late < _SAY_AGAIN:
            return
        left = identity.not_after - now
        if left <= 0:
            log.error(
                "the certificate of %s has expired at %s, and its files have no newer one: "
                "peers end new connections",
                identity.title,
                moment(identity.not_after),
            )
        elif left < _LATE * (identity.not_after - self._taken_at) and left < _SAY_AGAIN * 24:
            log.warning(
                "the certificate of %s expires at %s, and its files have no newer one",
                identity.title,
                moment(identity.not_after),
            )
        else:
            return
        self._said_late = now
