"""What goes wrong with API servers, each as a method named after it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.fakes.kube_status import Refused, status_object

if TYPE_CHECKING:
    from tests.fakes.kube_api import Request
    from tests.fakes.kube_store import Store
    from tests.fakes.kube_watch import Watch

__all__ = ["Faults", "Gate", "Refusal"]


@dataclass
class _Matching:
    """Which requests are meant; what is empty is any."""

    verb: str = ""
    plural: str = ""
    path: str = ""
    selector: str = ""

    def fits(self, request: Request) -> bool:
        query = request.query
        return (
            self.verb in ("", request.verb)
            and self.plural in ("", request.plural)
            and self.path in request.path
            and self.selector in f"{query.get('labelSelector', '')} {query.get('fieldSelector', '')}"
        )


@dataclass
class Refusal(_Matching):
    """Requests are answered with a Status, `times` times or until `end`.

    Attributes:
        given: How often so far.
    """

    code: int = 500
    times: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    given: int = 0

    def end(self) -> None:
        self.times = self.given


@dataclass
class Gate(_Matching):
    """Requests wait before they are looked at, or before they are answered, until `open`.

    Attributes:
        answers: Whether what was asked is done already while the answer waits.
        waiting: How many wait now.
    """

    answers: bool = False
    waiting: int = 0
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def open(self) -> None:
        self.opened.set()


class Faults:
    """The faults of the fake API server. Those about streams hit the watches open at that moment."""

    store: Store
    watches: list[Watch]

    def __init__(self) -> None:
        self._refusals: list[Refusal] = []
        self._gates: list[Gate] = []
        self._on_request: Callable[[Request], object] | None = None
        self._forbidden: set[tuple[str, str, str, str]] = set()
        self._greetings: list[Callable[[Watch], None]] = []
        self._speaking = asyncio.Event()
        self._speaking.set()
        self._pieces = 0
        self._event = asyncio.Event()

    # Answers

    def refuse(
        self,
        code: int,
        *,
        verb: str = "",
        plural: str = "",
        path: str = "",
        selector: str = "",
        times: int | None = None,
        reason: str | None = None,
        message: str = "",
        retry_after: float | None = None,
    ) -> Refusal:
        """Answer requests with this status: of this verb, resource, part of the path, part of a selector."""
        more = {"reason": reason, "message": message, "retry_after": retry_after}
        refusal = Refusal(verb, plural, path, selector, code, times, more)
        self._refusals.append(refusal)
        return refusal

    def hold(
        self, *, verb: str = "", plural: str = "", path: str = "", selector: str = "", answers: bool = False
    ) -> Gate:
        """Leave requests lying until the gate is opened; with `answers`, do what they ask and say nothing."""
        gate = Gate(verb, plural, path, selector, answers)
        self._gates.append(gate)
        return gate

    def on_request(self, then: Callable[[Request], object] | None) -> None:
        """Do this when a request comes, before it is looked at (None: no more)."""
        self._on_request = then

    def forbid(self, verb: str, plural: str = "pods", namespace: str = "", user: str = "") -> None:
        """RBAC lacks this verb, for one namespace and user or (empty) for all. Open watches go on."""
        self._forbidden.add((verb, plural, namespace, user))

    def allow(self, verb: str, plural: str = "pods", namespace: str = "", user: str = "") -> None:
        """Take back a `forbid` of the same arguments."""
        self._forbidden.discard((verb, plural, namespace, user))

    def allows(self, verb: str, plural: str, namespace: str, user: str) -> bool:
        rules = itertools.product((verb,), (plural,), {namespace, ""}, {user, ""})
        return self._forbidden.isdisjoint(rules)

    # Versions

    def forget_versions(self) -> None:
        """Compaction: watches and continued lists from before now answer 410, as an event and a status."""
        self.store.forget_before(self.store.version)

    def forget_before(self, version: int) -> None:
        """The same for versions before `version`."""
        self.store.forget_before(version)

    def version_goes_back(self, by: int) -> None:
        """etcd was restored from a backup: new versions are lower than those known."""
        self.store.version -= by
        self.store.history.clear()
        self.cut_watches()

    # Streams

    def event_410(self) -> None:
        """An ERROR event: the version is too old."""
        self.error_event(status_object(410, "too old resource version: 1 (2)"))

    def error_event(self, status: dict[str, Any]) -> None:
        """An ERROR event with this Status, then the end of the stream."""
        for watch in self.watches:
            watch.error(status)

    def greet(self, greeting: Callable[[Watch], None] | None) -> None:
        """Do this to each new watch as it starts, after what it sends first (None: no more).

        `lambda watch: watch.end()` is a clean close at once.
        """
        self._greetings = [greeting] if greeting is not None else []

    def bookmark(self) -> None:
        """What a real server sends each minute."""
        for watch in self.watches:
            watch.bookmark()

    def close_watches(self) -> None:
        """A clean end of every stream, as when `timeoutSeconds` is over."""
        for watch in self.watches:
            watch.end()

    def cut_watches(self) -> None:
        """Connections are reset."""
        for watch in self.watches:
            watch.cut()

    def cut_mid_line(self, rest: bytes = b'{"type":"MODIFIED","object":{"metadata":{"name":"gree') -> None:
        """Connections break in the middle of a line."""
        for watch in self.watches:
            watch.cut(rest)

    def send_line(self, line: bytes) -> None:
        """Send anything, such as a line that is no JSON."""
        for watch in self.watches:
            watch.put(line)

    def half_open(self) -> None:
        """The other end is gone without a FIN: nothing comes any more, not even an end. New ones work."""
        for watch in self.watches:
            watch.stuck = True

    def mute(self) -> None:
        """TCP is alive, and no watch, old or new, says anything until `speak`."""
        self._speaking.clear()

    def speak(self) -> None:
        """End of `mute`; what was held back comes now."""
        self._speaking.set()

    def in_pieces(self, size: int) -> None:
        """Lines come in chunks of so many bytes: multi-byte characters are torn apart. 0: whole again."""
        self._pieces = size

    def lose_event(self, change: Callable[[], object]) -> None:
        """Make a change of which no open watch is told (even real servers do: kubernetes#123072)."""
        listeners, self.store.listeners = self.store.listeners, []
        try:
            change()
        finally:
            self.store.listeners = listeners
        # Nor is a watch that starts from an earlier version.
        self.store.history.pop()

    # What the server asks

    async def _meddle(self, request: Request) -> None:
        if self._on_request is not None:
            self._on_request(request)
        await self._pass_gates(request, answers=False)
        for refusal in self._refusals:
            if refusal.fits(request) and (refusal.times is None or refusal.given < refusal.times):
                refusal.given += 1
                raise Refused(refusal.code, **refusal.more)

    async def _pass_gates(self, request: Request, *, answers: bool) -> None:
        for gate in self._gates:
            if gate.answers is answers and gate.fits(request) and not gate.opened.is_set():
                gate.waiting += 1
                self._noticed()
                try:
                    await gate.opened.wait()
                finally:
                    gate.waiting -= 1

    def _greet(self, watch: Watch) -> None:
        for greeting in self._greetings:
            greeting(watch)

    async def _gate(self, watch: Watch) -> None:
        self._noticed()
        await self._speaking.wait()
        if watch.stuck:
            await asyncio.Event().wait()

    def _piece(self) -> int:
        return self._pieces

    # News for those who wait

    def _noticed(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def _activity(self) -> None:
        await self._event.wait()
