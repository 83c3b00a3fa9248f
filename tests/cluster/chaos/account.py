"""What became of every call: from what the callers say, and the pods of what they ran."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Calls that a message shows.
SHOWN = 8


@dataclass(slots=True)
class Call:
    """A call that has ended; times of `time.time()`.

    Attributes:
        client: Who made it.
        number: How many it began before.
        marked: Whether the client has said that it may run twice.
        node: Address of the last attempt's.
        ran: Attempts whose handler has begun: the pod's name, and how many were before.
    """

    id: str
    client: str
    number: int
    marked: bool
    begun: float
    ended: float
    node: str
    code: str
    text: str
    ran: Sequence[Run] = ()

    @property
    def tried_again(self) -> bool:
        """Whether a handler was told that it is not the first."""
        return any(run.attempt for run in self.ran)


@dataclass(frozen=True, slots=True)
class Run:
    """A handler that began."""

    call: str
    pod: str
    at: float
    attempt: int


class _Lines:
    """The JSON objects of a file that grows, each told once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def new(self) -> list[dict[str, Any]]:
        with self._path.open("rb") as file:
            file.seek(self._at)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._at += len(whole) + 1
        return [json.loads(line) for line in whole.split(b"\n") if line.startswith(b"{")]


@dataclass(slots=True)
class Account:
    """Everything that all pods of a namespace have written, as far as it has been read.

    Attributes:
        calls: Those that have ended.
        runs: Of each call, also of those in flight.
        sent: How many calls each client began, once it has ended.
    """

    folder: Path
    calls: list[Call] = field(default_factory=list)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    _files: dict[str, _Lines] = field(default_factory=dict)

    def read(self) -> None:
        """Read on."""
        for path in self.folder.glob("*.log"):
            pod = path.name.partition(".")[0]
            lines = self._files.setdefault(path.name, _Lines(path))
            for line in lines.new():
                if "ran" in line:
                    run = Run(line["ran"], pod, line["at"], line["attempt"])
                    self.runs.setdefault(run.call, []).append(run)
                elif "call" in line:
                    identity = line.pop("call")
                    client, kind, number = identity.split("/")
                    runs = self.runs.setdefault(identity, [])
                    self.calls.append(Call(identity, client, int(number), kind == "marked", ran=runs, **line))
                else:
                    self.sent[pod] = line["begun"]

    def of(
        self,
        client: str = "",
        *,
        since: float = 0.0,
        until: float = float("inf"),
        marked: bool | None = None,
    ) -> list[Call]:
        """The ended calls of a client, or of all, that were begun in some time."""
        return [
            call
            for call in self.calls
            if since <= call.begun < until and client in ("", call.client) and marked in (None, call.marked)
        ]

    def in_flight(self, pod: str) -> list[Run]:
        """What began on a pod, of calls that have not ended."""
        ended = {call.id for call in self.calls}
        return [run for id, runs in self.runs.items() if id not in ended for run in runs if run.pod == pod]


def failed(calls: Iterable[Call]) -> list[Call]:
    """Those that failed, or were answered with another one's answer."""
    return [call for call in calls if call.code != "OK"]


def none(what: str, calls: Sequence[Call]) -> None:
    """There are none of these.

    Raises:
        AssertionError: It says what became of them.
    """
    assert not calls, "\n".join([f"{len(calls)} calls {what}: {kinds(calls)}", *map(str, calls[:SHOWN])])


def kinds(calls: Iterable[Call]) -> str:
    """How they ended."""
    found = Counter(call.code for call in calls)
    return ", ".join(f"{count} {code}" for code, count in found.most_common()) or "none"


def percentile(calls: Iterable[Call], share: float) -> float:
    """Seconds that this share of the calls took at most."""
    took = sorted(call.ended - call.begun for call in calls)
    return took[min(int(len(took) * share), len(took) - 1)]


def describe(calls: Sequence[Call]) -> str:
    """The figures of each client in one line."""
    parts = []
    for client in sorted({call.client for call in calls}):
        own = [call for call in calls if call.client == client]
        marked, unmarked = (kinds(failed(c for c in own if c.marked is mark)) for mark in (True, False))
        again = sum(call.tried_again for call in own)
        parts.append(
            f"{client}: {len(own)} calls, failed: {marked} of the marked, {unmarked} of the others;"
            f" {again} tried again"
        )
    return " | ".join(parts)
