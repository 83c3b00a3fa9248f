"""How a reflector's lists and watches fare: how long it waits, and what counts as a failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pymicro.base.backoff import Backoff
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.timing import ReflectorTiming

__all__ = ["ReflectorHealth"]


class ReflectorHealth:
    """The course of one reflector's lists and watches.

    Args:
        timing: All lengths of time.
        clock: Seconds of a monotonic clock.
        uniform: Source of randomness, `(low, high) -> value`.

    Attributes:
        watches: Watches begun.
        restarts: Watches that broke or fell silent.
        errors: What went wrong, by kind.
        expired: Useless versions in a row, with no event between them.
        doubtful: Whether the last watch brought nothing from its beginning to its end.
        last_heard: When the server last said anything.
    """

    def __init__(
        self, timing: ReflectorTiming, clock: Callable[[], float], uniform: Callable[[float, float], float]
    ) -> None:
        self.watches = 0
        self.restarts = 0
        self.errors: Counter[str] = Counter()
        self.expired = 0
        self.doubtful = False
        self.last_heard: float | None = None
        self._timing = timing
        self._clock = clock
        self._backoff = Backoff(timing.backoff_initial, timing.backoff_maximum, uniform=uniform)
        # When the present watch began; None between two.
        self._opened: float | None = None
        # Whether it has brought an event yet; whether it has brought nothing at all, not even a list.
        self._eventful = False
        self._silent = True
        # Since when everything has worked.
        self._healthy_since: float | None = None
        # Whether something worked since the last trouble: if so, the next one may be a single one.
        self._worked = False

    @property
    def watching(self) -> bool:
        """Whether a watch is open, or has just broken."""
        return self._opened is not None

    def opened(self, *, listed: bool = False) -> None:
        """A watch was accepted; with `listed` it goes on from a streaming list."""
        self._opened = self.last_heard = self._clock()
        self._eventful = False
        self._silent = not listed
        self.watches += 1
        if self._healthy_since is None:
            self._healthy_since = self._opened

    def answered(self) -> None:
        """The server answered, perhaps with a part only."""
        self.last_heard = self._clock()

    def listed(self) -> None:
        """A list is complete."""
        self.last_heard = self._clock()
        self._worked = True

    def event(self) -> None:
        """The watch brought an event, perhaps only a bookmark."""
        self.last_heard = self._clock()
        self._eventful = self._worked = True
        self._silent = False
        self.expired = 0

    def ended(self) -> float | None:
        """The watch ended in the usual way.

        Returns:
            Seconds to wait before the next one; None if the watch was so short that it failed.
        """
        assert self._opened is not None
        lived = self._clock() - self._opened
        if lived < self._timing.short_watch and not self._eventful:
            return None
        self._opened = None
        return max(0.0, self._timing.short_watch - lived)

    def trouble(self, error: KubeError) -> tuple[float, bool]:
        """Something went wrong.

        Returns:
            Seconds to wait before the next try, and whether to tell followers.
        """
        now = self._clock()
        self.errors[error.kind] += 1
        opened, self._opened = self._opened, None
        if opened is not None:
            self.restarts += 1
            if error.kind == "idle":
                # The connection may have been cut without a word, or nothing may have happened. A new
                # watch tells at once, and one for each `idle_limit` is no burden.
                self.doubtful = self._silent
                return 0.0, False
        if self._healthy_since is not None and now - self._healthy_since >= self._timing.healthy_after:
            self._backoff.reset()
        self._healthy_since = None
        # One watch that breaks and comes back is no failure; two in a row are.
        excused = opened is not None and (self._worked or now - opened >= self._timing.short_watch)
        self._worked = False
        if error.expired or error.kind == "backwards":
            self.expired += 1
            # One useless version is no failure either: the reflector lists again.
            excused = excused or self.expired == 1
        pause = self._backoff.next()
        if error.retry_after is not None:
            # The jitter comes on top: the server told all clients the same time.
            pause += min(error.retry_after, self._timing.retry_after_limit)
        return pause, not excused
