"""Ends what a supervisor has left behind: a process of its own, which outlives a supervisor that is killed.

It is run by its path, knows nothing of pymicro and imports little, so that it starts at once
and stays small. Its input says which process groups there are:

    +PID SECONDS 1    a process leads a group of that id; it may take so long to stop
    +PID SECONDS 0    the same, and it notices by itself that its supervisor is gone
    -PID              the group is empty

Its input ends when the supervisor does, whatever has ended it. This works wherever there are
process groups; Linux alone has a signal for the death of a parent, and that would not reach
the children of a process.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable

# Seconds that the children of a process may take to stop when it has ended.
LEFT_BEHIND = 1.0
_INTERVAL = 0.05


class _Group:
    def __init__(self, pid: int, seconds: float, asked: bool) -> None:
        self.pid = pid
        self.seconds = seconds
        self.asked = asked
        self.until = 0.0
        self.alone = False  # whether its leader has ended

    def begin(self, now: float) -> None:
        self.until = now + self.seconds
        if self.asked:
            _send(os.kill, self.pid, signal.SIGTERM)

    def over(self, now: float) -> bool:
        """Take the next step; whether it was the last one."""
        if not _send(os.killpg, self.pid, 0):
            return True
        if not self.alone and not _send(os.kill, self.pid, 0):
            self.alone = True
            self.until = min(self.until, now + LEFT_BEHIND)
            _send(os.killpg, self.pid, signal.SIGTERM)
        if now < self.until:
            return False
        _send(os.killpg, self.pid, signal.SIGKILL)
        return True


def _send(how: object, pid: int, number: int) -> bool:
    """Send a signal; whether there was somebody to get it."""
    try:
        how(pid, number)  # type: ignore[operator]
    except OSError:
        return False
    return True


def _read(lines: Iterable[bytes]) -> list[_Group]:
    """The groups that are left at the end of the input."""
    groups: dict[int, _Group] = {}
    for line in lines:
        try:
            pid, *more = line[1:].split()
            if line.startswith(b"+"):
                seconds, asked = more
                groups[int(pid)] = _Group(int(pid), float(seconds), asked == b"1")
            else:
                groups.pop(int(pid), None)
        except ValueError:
            continue  # the supervisor was killed while it wrote the line
    return list(groups.values())


def main() -> None:
    """Wait for the end of the input, then for that of the groups."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups = _read(sys.stdin.buffer)
    for group in groups:
        group.begin(time.monotonic())
    while groups:
        groups = [group for group in groups if not group.over(time.monotonic())]
        time.sleep(_INTERVAL)


if __name__ == "__main__":
    main()
