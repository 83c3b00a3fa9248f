"""How long calls wait for a service that their client has not met yet."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["FirstWait", "FirstWaits"]

# Names that are remembered. A program that asks for ever new names must not fill the memory.
MOST_NAMES = 4096


class FirstWait:
    """One service, as one client has met it or not; all of the client's channels to the service share it.

    A client often starts together with its servers, and is ready first. Therefore its first calls
    wait a moment for a node. Once a connection to any node has stood, or the time is over, calls
    fail at once if there is no node.

    Attributes:
        until: The moment up to which calls wait, on the loop's clock.
        met: Whether a connection to any node of the service has stood.
    """

    __slots__ = ("met", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.met = False

    def lasts(self, now: float) -> bool:
        """Whether calls wait for a node now, a moment of the loop's clock."""
        return not self.met and now < self.until


class FirstWaits:
    """The first waits of one client, by the service's name.

    Args:
        length: Seconds from the first question for a name; 0 for no wait.
        clock: The loop's clock.
    """

    def __init__(self, length: float, clock: Callable[[], float]) -> None:
        self._length = length
        self._clock = clock
        self._by_name: dict[str, FirstWait] = {}

    def of(self, service: str) -> FirstWait:
        """The wait of a service; it begins with the first question for it."""
        found = self._by_name.get(service)
        if found is None:
            if len(self._by_name) == MOST_NAMES:
                del self._by_name[next(iter(self._by_name))]
            found = self._by_name[service] = FirstWait(self._clock() + self._length)
        return found
