"""What sees to it that no process outlives its supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

from pymicro.runtime import guard_process

__all__ = ["Guard"]

# Seconds after which a killed one starts again at once: who kills each of them does not keep us busy.
_WELL = 1.0


class Guard:
    """A process beside the supervisor that ends the supervisor's process groups if it is killed.

    It starts before the first group comes, and ends when this is left. If somebody kills it, it
    starts again at once; one that was killed within a second, with the next group that comes or goes.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = 0.0
        self._groups: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def start(self) -> None:
        """Start it in the running loop, before anything that it is to guard.

        Raises:
            OSError: The system starts no more processes.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                # Neither the user's site-packages nor variables concern it.
                [sys.executable, "-I", "-S", guard_process.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,  # it says nothing: the end of the pipe is its end
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                start_new_session=True,  # Ctrl-C and the end of the terminal do not reach it
            )
            self._begun = time.monotonic()
            asyncio.get_running_loop().add_reader(self._process.stdout, self._killed)  # type: ignore[arg-type]

    def add(self, pid: int, longest: float, *, ask: bool) -> None:
        """Guard the group that a process leads; once more with another `longest` if that has changed.

        Args:
            longest: Seconds that the process may take to stop.
            ask: Whether the process must be told to stop.
        """
        self._groups[pid] = f"+{pid} {longest:.3f} {int(ask)}\n"
        self._say(self._groups[pid])

    def remove(self, pid: int) -> None:
        """The group has ended."""
        self._groups.pop(pid, None)
        self._say(f"-{pid}\n")

    def _say(self, line: str) -> None:
        if self._process is None or self._process.poll() is not None:
            self._again()
        else:
            self._write(line)

    def _killed(self) -> None:
        if time.monotonic() - self._begun > _WELL:
            self._again()
        else:
            self._end()

    def _again(self) -> None:
        self._end()
        if self._groups:
            with contextlib.suppress(OSError):
                self.start()
                self._write("".join(self._groups.values()))

    def _write(self, lines: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it was killed, and `_killed` is about to hear of that
            self._process.stdin.write(lines.encode())

    def _end(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            asyncio.get_running_loop().remove_reader(self._process.stdout)
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            self._process = None
