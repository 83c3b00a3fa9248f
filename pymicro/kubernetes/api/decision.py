"""What a reflector does after each attempt: one pure function and its table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.timing import ReflectorTiming

__all__ = ["AttemptOutcome", "Decision", "Standing", "decide", "is_outage"]

# Such a failure says nothing of our version: the server keeps clients out, or has no time.
_KEPT_OUT = frozenset({"unauthorized", "forbidden", "throttled", "config", "credentials"})
# The same, where no watch was open: nobody answered, or a proxy that has no server behind it.
_AWAY = frozenset({"connection", "timeout", "proxy", "tls"})
_NO_SERVER = (502, 503, 504)
# Whoever cut an open watch like this did not refuse it: load balancers end them every 35 to 60 s.
_CUT = frozenset({"connection", "timeout", "tls", "cut", "idle"})
# The version is of no use any more, or the same bad line would come again.
_USELESS = frozenset({"expired", "backwards", "malformed"})

# How much of `backoff_initial` is the chance after such a cut. With all of it, clients behind a
# load balancer that cuts each 35 s would be without a watch for up to 2.2 % of the time.
_CHANCE = 0.4

# Past this many the pause has its full length; the number must not grow for ever.
_MOST_FAILURES = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptOutcome:
    """How one attempt ended. An attempt lists, if it has to, and then watches.

    Attributes:
        stage: How far it came: a list was under way, a watch was asked for, a watch was open.
        error: What ended it; None if the watch was simply over.
        listed: Whether it completed a list.
        events: Whether the watch brought an event, perhaps only a bookmark.
        lived: Seconds for which the watch was open.
    """

    stage: Literal["list", "asked", "open"]
    error: KubeError | None = None
    listed: bool = False
    events: bool = False
    lived: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What earlier attempts leave behind.

    Attributes:
        failures: Failures since all was well for `ReflectorTiming.healthy_after`: the pauses
            grow with them.
        doubts: Attempts in a row that ended against our version: refused, or over at once.
            From the second one on the reflector asks for pages, which need neither a
            version nor a stream.
        healthy: Seconds of open watches since the last failure.
        silent: Seconds of open watches since one brought anything at all.
    """

    failures: int = 0
    doubts: int = 0
    healthy: float = 0.0
    silent: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to do now.

    Attributes:
        pause: Seconds to wait at least before the next attempt.
        jitter: Seconds of chance on top: wait between none and all of them.
        failed: Whether the attempt counts as a failure.
        tell: Whether followers must hear of it.
        good: Whether the version is still good; if not, the next attempt lists.
        check: Whether to ask, before the next watch, if the server has ever been at our version.
        standing: For the next decision.
    """

    pause: float
    jitter: float
    failed: bool
    tell: bool
    good: bool
    check: bool
    standing: Standing


def is_outage(error: KubeError) -> bool:
    """Whether a failure is the server's or the network's, so that any other request would have met it."""
    return error.kind in _KEPT_OUT or error.kind in _AWAY or error.status in _NO_SERVER


def decide(outcome: AttemptOutcome, standing: Standing, timing: ReflectorTiming) -> Decision:
    """Decide from one attempt's outcome; the first row that fits counts.

    | the attempt ended | pause | tell | version |
    |---|---|---|---|
    | 1. kept out (401, 403, 429, no credentials), or with nobody there (no answer, 502 to 504, and no watch open) | grows | yes | good |
    | 2. with a version or line of no use (410, one that went back, no JSON) | grows | from the second in a row | gone |
    | 3. as an open watch that was silent | none | no | good |
    | 4. as an open watch that was over or cut, after a moment or with an event | the rest of the moment, and chance | no | good |
    | 5. in any other way: refused, over at once, a failure that nobody thought of | grows | from the second in a row | gone from the second in a row |

    A moment is `short_watch`. In rows 2 and 5 a list that fails is told at once (except a
    `continue` that expired), and an attempt that listed is not told: what followers have is
    fresh, and the next attempt lists again. Row 4 is what load balancers do every 35 to 60 s:
    its chance is at most 0.4 `backoff_initial`, less than 1 % of the time.
    Row 5 is client-go's rule, which lists anew after every such end; we do after two.

    A pause that grows is chance up to `backoff_initial`, doubled by each failure, at most
    `backoff_maximum`; what the server asked for (Retry-After) comes on top. It begins anew
    after `healthy_after` seconds of open watches without a failure.

    A watch from a version that the server has never reached (etcd was restored from a backup)
    is silent. So after `idle_limit` seconds of watches that brought nothing, `check` is true.
    """  # noqa: E501 - a row of a table is one line
    error, opened = outcome.error, outcome.stage == "open"
    kind = "" if error is None else error.kind
    lived = outcome.lived if opened else 0.0
    healthy = standing.healthy + lived
    if outcome.listed or outcome.events:
        silent = 0.0
    else:
        silent = standing.silent + (max(lived, timing.idle_limit) if kind == "idle" else lived)
    check = silent >= timing.idle_limit
    standing = replace(standing, silent=0.0 if check else silent, healthy=healthy)

    away = not opened and error is not None and (kind in _AWAY or error.status in _NO_SERVER)
    if kind in _KEPT_OUT or away:
        tell = good = True
    elif opened and kind == "idle":
        return _works(standing, check, 0.0, 0.0)
    elif opened and (error is None or kind in _CUT) and (outcome.events or lived >= timing.short_watch):
        chance = timing.backoff_initial * _CHANCE
        return _works(standing, check, max(0.0, timing.short_watch - lived), chance)
    else:
        worked = outcome.events and (lived >= timing.short_watch or kind in _USELESS)
        standing = replace(standing, doubts=min((0 if worked else standing.doubts) + 1, _MOST_FAILURES))
        again = standing.doubts >= 2
        good = kind not in _USELESS and not again
        tell = not outcome.listed and (again or (outcome.stage == "list" and kind != "expired"))

    failures = 0 if healthy >= timing.healthy_after else standing.failures
    asked = 0.0 if error is None or error.retry_after is None else error.retry_after
    return Decision(
        pause=min(asked, timing.retry_after_limit),
        jitter=min(timing.backoff_initial * 2**failures, timing.backoff_maximum),
        failed=True,
        tell=tell,
        good=good,
        check=check,
        standing=replace(standing, failures=min(failures + 1, _MOST_FAILURES), healthy=0.0),
    )


def _works(standing: Standing, check: bool, pause: float, jitter: float) -> Decision:
    return Decision(
        pause=pause,
        jitter=jitter,
        failed=False,
        tell=False,
        good=True,
        check=check,
        standing=replace(standing, doubts=0),
    )
