"""Whether the caller of a call may make it, and what is said and counted if not."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Container, Iterable
from typing import Any, NamedTuple

import grpc

from pymicro.base.log_quota import LogQuota
from pymicro.base.loggers import logger
from pymicro.base.printable import listed
from pymicro.identity.caller import KnownCaller, caller_of
from pymicro.identity.rules import CallRules
from pymicro.identity.verdict import Rejected
from pymicro.serving.call.authentication import Authentication, Unsettled, Who

__all__ = ["Authorizer", "Denial"]

log = logger("pymicro.server")

# Seconds between two lines about one caller.
_LOG_EVERY = 1.0
# Callers that are remembered for that. Each has proved a name of its own, and there may be any number.
_MOST = 1000
_NOBODY = "a caller without a certificate"
_UNPROVED = "a caller that proves nothing"
_BAD = "a caller whose token or API key is not taken"


class Denial(NamedTuple):
    """Why a call is refused.

    Attributes:
        code: PERMISSION_DENIED, or UNAUTHENTICATED for a caller that has proved nothing.
        text: For the caller.
        reason: For the metric of refused calls.
        elsewhere: Whether another node may answer it: nothing was found out about the caller.
    """

    code: grpc.StatusCode
    text: str
    reason: str
    elsewhere: bool = False


class Authorizer:
    """Holds each call against the rules.

    Args:
        rules: Those in code and settings.
        open_to_all: Paths that everybody may call, whatever the rules say.
        authentication: Finds out who calls by what calls carry; None where only certificates count.
        enforced: Whether anybody is refused at all.

    Attributes:
        rules: Those in force.
        authentication: As it was given.
    """

    def __init__(
        self,
        rules: CallRules,
        open_to_all: Container[str],
        authentication: Authentication | None = None,
        *,
        enforced: bool = True,
    ) -> None:
        self._own = rules
        self._open_to_all = open_to_all
        self._enforced = enforced
        self.authentication = authentication
        self.rules = rules
        self._told: OrderedDict[str, float] = OrderedDict()
        self._quota = LogQuota(log, "more calls are refused to their callers")

    def take(self, rules: CallRules) -> None:
        """Hold calls against these as well, which say more than code and settings."""
        self.rules = rules.over(self._own)

    def strangers(self, paths: Iterable[str]) -> list[str]:
        """What the rules name and the server does not have, so that a slip of the pen is not overlooked.

        Args:
            paths: All methods.
        """
        methods = {path[1:] for path in paths}
        services = {name.rpartition("/")[0] for name in methods}
        return sorted({*(self.rules.services.keys() - services), *(self.rules.methods.keys() - methods)})

    def is_open(self, path: str) -> bool:
        """Whether everybody may call the method of this path, so that nobody is asked who he is."""
        return path in self._open_to_all

    def who(self, path: str, context: Any) -> Who | Unsettled:
        """Who makes a call, as far as that is known without a wait.

        Args:
            path: Of the method.
            context: Of the call: it tells of its connection and its metadata.
        """
        authentication = self.authentication
        if authentication is None or path in self._open_to_all:
            return caller_of(context.auth_context())
        found = authentication.at_once(context)
        return None if isinstance(found, Rejected) and not self._enforced else found

    async def settled(self, who: Who | Unsettled) -> Who:
        """Who makes a call, after a wait if need be."""
        if isinstance(who, Unsettled):
            assert self.authentication is not None
            who = await self.authentication.settled(who)
            if isinstance(who, Rejected) and not self._enforced:
                return None
        return who

    def denial(self, path: str, context: Any) -> Denial | None:
        """Why a call must not be made, where only certificates count; None if it may."""
        if self.rules.of(path) is None:
            return None
        return self.denial_of(path, caller_of(context.auth_context()))

    def denial_of(self, path: str, who: Who) -> Denial | None:
        """Why a call must not be made by this caller; None if it may.

        Args:
            path: Of the method.
            who: Who makes it.
        """
        if path in self._open_to_all or not self._enforced:
            return None
        method = path.removeprefix("/")
        if isinstance(who, Rejected):
            if who.busy:
                text = f"{method}: it is not known who calls: {who.why}"
                return Denial(grpc.StatusCode.UNAVAILABLE, text, "full", elsewhere=True)
            text = f"{method}: what the call shows of its caller is not taken: {who.why}"
            return Denial(grpc.StatusCode.UNAUTHENTICATED, text, "unauthenticated")
        allowed = self.rules.of(path)
        if allowed is None and (self.authentication is None or who is not None):
            return None
        if who is None:
            if self.authentication is None:
                text = f"{method} is for callers with a certificate, and this connection has none"
            else:
                text = f"{method} is for callers that are known: {self.authentication.wanted} is needed"
            return Denial(grpc.StatusCode.UNAUTHENTICATED, text, "unauthenticated")
        if allowed is None or allowed.admit(who):
            return None
        return Denial(grpc.StatusCode.PERMISSION_DENIED, f"{who.title} may not call {method}", "denied")

    def tell(self, path: str, who: Who) -> None:
        """Say in the log that a call was refused, at most once a second for each caller."""
        if isinstance(who, KnownCaller):
            title = who.title
        elif isinstance(who, Rejected):
            title = f"{_BAD} ({who.why})"
        else:
            title = _NOBODY if self.authentication is None else _UNPROVED
        now = time.monotonic()
        if now - self._told.get(title, float("-inf")) < _LOG_EVERY:
            return
        self._told[title] = now
        self._told.move_to_end(title)
        if len(self._told) > _MOST:
            self._told.popitem(last=False)
        text = "%s may not call %s, and was refused (said once a second for each caller)"
        self._quota.say(logging.WARNING, text, title, path.removeprefix("/"))

    def tell_of_strangers(self, paths: Iterable[str]) -> None:
        """Say in the log which names of the rules are of nothing that is served here."""
        if found := self.strangers(paths):
            log.warning(
                "authorization: nothing here is called %s, so these rules have no effect", listed(found)
            )
