"""Checks the tokens that callers send, and remembers what came of it.

A check takes a fraction of a millisecond, and a stranger may send any number of tokens. So a token is
checked once, in a thread, and known by its digest from then on; and what is checked for one host in a
second is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from hashlib import sha256
from types import TracebackType
from typing import Self, TypeVar

from pymicro.base.errors import ConfigError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.base.tasks import Tasks
from pymicro.identity.accepted import AcceptedTokens
from pymicro.identity.issuer_keys import IssuerKeys, KeyPlace, in_cluster
from pymicro.identity.jwt_check import JwtKeys, KeyWanted, WantedClaims, check_token, issuer_in, need_pyjwt
from pymicro.identity.verdict import Proven, Rejected, Verdict

__all__ = ["LONGEST", "BearerTokens"]

T = TypeVar("T")

log = logger("pymicro.identity")

# Characters of a token: more do not fit into the metadata of a call.
LONGEST = 8192
# Tokens that are known to be good, some 5 KiB each; and that are known to be bad, which strangers write.
MOST_GOOD, MOST_BAD = 4096, 1024
# Seconds for which a bad one is known: it may become valid, and its key may come.
BAD_FOR = 10.0
# Tokens that wait for their check, of all hosts and of one.
MOST_WAITING, MOST_OF_ONE = 1024, 128
# Calls that wait for a check: many may have the same token.
MOST_CALLS = 10_000
# Bad tokens in a second, of one host and of all, after which no other new one is looked at in that second.
MOST_FAILURES, MOST_FAILURES_OF_ALL = 50, 500
_BUSY = Rejected("too many tokens wait to be checked", busy=True)


class BearerTokens:
    """Says of a token who has it.

    Args:
        accepted: Which issuers' tokens; at least one.
        clock: Seconds since 1970.

    Attributes:
        checks: How many signatures were looked at.

    Raises:
        ConfigError: Two issuers' subjects could not be told apart.
        PluginError: The extra `jwt` is not installed.
    """

    def __init__(self, accepted: Sequence[AcceptedTokens], clock: Callable[[], float] = time.time) -> None:
        need_pyjwt()
        realms = [one.realm for one in accepted]
        if len(accepted) > 1 and (len(set(realms)) < len(realms) or "" in realms):
            raise ConfigError(
                "tokens of several issuers are taken, and a subject means something with its issuer only: "
                "give each bearer_jwt a realm= of its own"
            )
        self._accepted = accepted
        self._clock = clock
        self._issuers: dict[str, tuple[WantedClaims, IssuerKeys]] = {}
        self._stack = AsyncExitStack()
        self._tasks = Tasks("pymicro tokens")
        self._thread = ThreadPoolExecutor(1, "pymicro-tokens")
        self._good: OrderedDict[bytes, Proven] = OrderedDict()
        self._bad: OrderedDict[bytes, tuple[float, Rejected]] = OrderedDict()
        self._asked: dict[bytes, asyncio.Task[Verdict]] = {}
        self._waiting: Counter[str] = Counter()
        self._calls = 0
        self._failures: Counter[str] = Counter()
        self._failed = 0
        self._second = 0
        self._generation = 0
        self.checks = 0

    async def __aenter__(self) -> Self:
        """Get the keys of all issuers, and follow them.

        Raises:
            ConfigError: They cannot be had, and never will.
        """
        async with AsyncExitStack() as stack:
            stack.callback(self._thread.shutdown, wait=False)
            await stack.enter_async_context(self._tasks)
            for one in self._accepted:
                issuer, place = one.issuer, KeyPlace(one.jwks, one.ca)
                if not one.jwks:
                    issuer, place = await asyncio.to_thread(in_cluster)
                if issuer in self._issuers:
                    raise ConfigError(f"tokens of the issuer {excerpt(issuer)} are taken twice")
                keys = await stack.enter_async_context(IssuerKeys(issuer, place, self._forget))
                self._issuers[issuer] = WantedClaims(issuer, one.audiences, one.prefix, one.leeway), keys
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _forget(self) -> None:
        """An issuer has other keys: one that is gone vouches for nobody any more."""
        self._generation += 1
        self._good.clear()
        self._bad.clear()

    def known(self, token: str) -> Verdict | None:
        """What is known of a token without a check; None if nothing is."""
        if len(token) > LONGEST:
            return Rejected(f"it is longer than {LONGEST} characters")
        digest = _digest(token)
        good = self._good.get(digest)
        if good is not None:
            if self._clock() < good.until:
                self._good.move_to_end(digest)
                return good
            del self._good[digest]
            return Rejected("it has expired")
        bad = self._bad.get(digest)
        if bad is not None:
            until, rejected = bad
            if self._clock() < until:
                return rejected
            del self._bad[digest]
        return None

    async def ask(self, token: str, host: str) -> Verdict:
        """Have a token checked.

        Args:
            token: Of which nothing is known.
            host: Who has sent it: what one host may cause is bounded.
        """
        if self._calls >= MOST_CALLS:
            return _BUSY
        digest = _digest(token)
        asked = self._asked.get(digest)
        if asked is None:
            if not self._may_ask(host):
                return _BUSY
            asked = self._tasks.start(self._settle(token, digest, host), "check")
            self._asked[digest] = asked
            self._waiting[host] += 1
        self._calls += 1
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            if asked.cancelled() and self._tasks.closed:  # the server stops
                return _BUSY
            raise
        finally:
            self._calls -= 1

    def _may_ask(self, host: str) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._failed = second, 0
            self._failures.clear()
        return (
            not self._tasks.closed
            and len(self._asked) < MOST_WAITING
            and self._waiting[host] < MOST_OF_ONE
            and self._failures[host] < MOST_FAILURES
            and self._failed < MOST_FAILURES_OF_ALL
        )

    async def _settle(self, token: str, digest: bytes, host: str) -> Verdict:
        try:
            generation = self._generation
            found = await self._checked(token)
            if isinstance(found, tuple):
                looked = found[0].renew() if generation == self._generation else None
                if looked is not None:
                    await looked
                if generation != self._generation:  # others have come, perhaps while this one was checked
                    generation = self._generation
                    found = await self._checked(token)
            verdict: Verdict = found[1].rejected if isinstance(found, tuple) else found
            if isinstance(verdict, Proven):
                if generation == self._generation:
                    _keep(self._good, digest, verdict, MOST_GOOD)
            else:
                self._failures[host] += 1
                self._failed += 1
                if generation == self._generation and not verdict.busy:
                    _keep(self._bad, digest, (self._clock() + BAD_FOR, verdict), MOST_BAD)
            return verdict
        except Exception:  # a bug, or no thread to be had: the call's own text must say nothing of it
            log.exception("a token could not be checked")
            return Rejected("it could not be checked", busy=True)
        finally:
            del self._asked[digest]
            self._waiting[host] -= 1
            if not self._waiting[host]:
                del self._waiting[host]

    async def _checked(self, token: str) -> Verdict | tuple[IssuerKeys, KeyWanted]:
        loop = asyncio.get_running_loop()
        self.checks += 1
        issuer = await loop.run_in_executor(self._thread, issuer_in, token)
        known = self._issuers.get(issuer) if issuer is not None else None
        if known is None:
            return Rejected(
                "it is cut off, or no token (JWT)"
                if issuer is None
                else "its issuer is none that is believed here"
            )
        wanted, followed = known
        keys: JwtKeys | None = followed.keys
        if keys is None:
            return Rejected("the keys of its issuer are not to be had at present", busy=True)
        found = await loop.run_in_executor(self._thread, check_token, token, wanted, keys)
        return (followed, found) if isinstance(found, KeyWanted) else found


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def _keep(into: OrderedDict[bytes, T], key: bytes, value: T, most: int) -> None:
    into[key] = value
    if len(into) > most:
        into.popitem(last=False)
