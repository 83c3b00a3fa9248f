"""What a supervisor runs, and how often it tries again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymicro.base.backoff import Backoff

__all__ = ["Program", "Restarts"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A program, of which some processes run side by side.

    Attributes:
        command: Makes the command to run, from the descriptor of the socket over which the
            process speaks with its supervisor; -1 if it does not.
        speaks: Whether it does: it is a `pymicro run --supervised`.
        name: For messages; empty for the only program there is.
        replicas: How many processes of it run.
        folder: Its working folder; None for the supervisor's own.
        environment: All its variables; None for the supervisor's own.
        watched: Folders; a change of files in one of them concerns this program.
        stop_first: Whether a process starts only when the previous one has ended.
        grace: Seconds that a process which does not speak may take to stop.
    """

    command: Callable[[int], Sequence[str]]
    speaks: bool = True
    name: str = ""
    replicas: int = 1
    folder: Path | None = None
    environment: Mapping[str, str] | None = None
    watched: Sequence[Path] = ()
    stop_first: bool = False
    grace: float = 10.0

    def labels(self) -> list[str]:
        """What each of its processes is called: `greeter.1`, or `greeter` if there is one."""
        if self.replicas == 1:
            return [self.name]
        return [f"{self.name}.{number}" for number in range(1, self.replicas + 1)]

    def concerned(self, path: Path) -> bool:
        """Whether a file lies in one of its folders."""
        return any(path.is_relative_to(folder) for folder in self.watched)


@dataclass(frozen=True, kw_only=True, slots=True)
class Restarts:
    """When a process that crashed is started again.

    Attributes:
        initial: Seconds until the first try.
        maximum: The most seconds between two tries; each pause is twice the one before.
        well: Seconds that a process must have served until a crash counts as the first one.
    """

    initial: float = 1.0
    maximum: float = 30.0
    well: float = 10.0

    def backoff(self) -> Backoff:
        """The pauses. Without chance: on one machine nobody else tries in the same second."""
        return Backoff(self.initial, self.maximum, uniform=lambda _, ceiling: ceiling)
