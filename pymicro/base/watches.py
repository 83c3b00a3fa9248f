"""How the watches of a registry fare: each watch writes it down, operators read it.

A watch follows something elsewhere: the objects of a cluster, keys of etcd, a folder. It reads all of it
first and hears of changes afterwards. What is written here is the same for all of them.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["WatchRecord", "Watches"]

# Of how many cuts the moment is known.
RECENT = 5
# Seconds for which the record of a watch that ended in a failure waits for the next one of the same thing:
# whoever wants it watches again within half a minute.
KEPT = 120.0
# The most of these.
MOST_KEPT = 100
# Reasons that are kept apart; and characters of an error, of which a peer may write the end.
MOST_REASONS = 20
LONGEST = 500
OTHER = "other"


class WatchRecord:
    """One watch, since it began; made by `Watches.begin`, and over with `end`.

    Attributes:
        what: What is watched, for people: `pods in namespace shop`.
        lists: How often all of it was read.
        cuts: How often the watch ended otherwise than agreed, by reason, a word each. `idle` need be no
            fault: where nothing happens, a watch may be silent.
        resumes: Whether the next watch goes on where this one has come to; if not, it reads all of it
            again. None where watches always do.
        error: Why it does not work at present; empty while it does.
    """

    def __init__(self, what: str, watches: Watches, clock: Callable[[], float]) -> None:
        self.what = what
        self.lists = 0
        self.cuts: Counter[str] = Counter()
        self.resumes: bool | None = None
        self.error = ""
        self._watches = watches
        self._clock = clock
        self._began = clock()
        self._opened: float | None = None
        self._heard: float | None = None
        self._recent: deque[tuple[float, str]] = deque(maxlen=RECENT)

    @property
    def connected(self) -> bool:
        """Whether it is, and works."""
        return self._opened is not None

    def listed(self) -> None:
        """All of it was read; once more, if it was before."""
        self.lists += 1
        if self.lists > 1:
            self._watches.relists += 1
        self.heard()

    def opened(self) -> None:
        """It is connected from now on, and works."""
        self._opened = self._heard = self._clock()
        self.error = ""

    def heard(self) -> None:
        """Something came: a change, or the word that there is none."""
        self._heard = self._clock()

    def ended(self) -> None:
        """It was connected, and has ended as agreed."""
        self._opened = None

    def cut(self, why: str, error: str) -> None:
        """It was connected, and has ended otherwise than agreed.

        Args:
            why: A word for counting.
            error: For people.
        """
        self._opened = None
        if why not in self.cuts and len(self.cuts) >= MOST_REASONS:
            why = OTHER
        self.cuts[why] += 1
        self._recent.append((self._clock(), why))
        self.failed(error)

    def failed(self, error: str) -> None:
        """It could not begin, or could not go on.

        Args:
            error: For people.
        """
        self._opened = None
        self.error = error[:LONGEST] or "it failed"

    def end(self) -> None:
        """The watch is over: it failed, or nobody wants it any more. Once more, nothing happens."""
        self._watches._leave(self)

    def to_json(self) -> Mapping[str, Any]:
        """For a page of the admin port; moments are how many seconds ago they were."""
        now = self._clock()

        def ago(moment: float | None) -> float | None:
            return round(now - moment, 3) if moment is not None else None

        return {
            "what": self.what,
            "watched_seconds": ago(self._began),
            "connected_seconds": ago(self._opened),
            "heard_seconds": ago(self._heard),
            "lists": self.lists,
            "cuts": dict(self.cuts),
            "recent_cuts": [{"seconds": ago(moment), "why": why} for moment, why in self._recent],
            "resumes": self.resumes,
            "error": self.error or None,
        }


class Watches:
    """The watches of one registry.

    Args:
        clock: Seconds of a monotonic clock.

    Attributes:
        relists: How often any of them read all again, since the registry was made.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.relists = 0
        self._clock = clock
        self._live: list[WatchRecord] = []
        self._kept: dict[str, tuple[float, WatchRecord]] = {}

    def begin(self, what: str) -> WatchRecord:
        """The record of a watch that begins; call its `end` when the watch is over.

        If the last watch of the same thing ended in a failure just now, its record goes on.
        """
        _, record = self._kept.pop(what, (0.0, None))
        if record is None:
            record = WatchRecord(what, self, self._clock)
        self._live.append(record)
        return record

    def _leave(self, record: WatchRecord) -> None:
        if record not in self._live:
            return
        self._live.remove(record)
        record.ended()
        if record.error:
            if len(self._kept) >= MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[record.what] = self._clock(), record

    @property
    def records(self) -> tuple[WatchRecord, ...]:
        """Those of all watches, also of such as failed just now and are to begin again."""
        now = self._clock()
        for what, (since, _) in list(self._kept.items()):
            if now - since > KEPT:
                del self._kept[what]
        return (*self._live, *(record for _, record in self._kept.values()))
