"""What `pymicro run --reload` does: processes that serve, and a new one after each change.

It never imports grpc or the user's code. The new process starts first, and the previous
one leaves once the new one is registered, so that callers always have a node. Two
processes cannot listen on one fixed port. In that case the new process gets as far as it
can without the port, and then the previous one leaves first.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path

from pymicro.base.errors import ConfigError, StartError
from pymicro.base.tasks import Tasks
from pymicro.nodes.address import split_address
from pymicro.runtime.child import Child
from pymicro.serving.listen import probe

__all__ = ["Supervisor"]

# Seconds between two tries of a port that the previous process is about to leave.
_PORT_INTERVAL = 0.02
# How many of the changed files are named.
_NAMED = 3


class Supervisor:
    """Runs one process at a time, except while one takes over from another.

    Args:
        command: Makes the command to run, from the descriptor of the process's socket.
        changes: Yields the files that have changed, from its first step on.
        stop_first: Whether a process starts only when the previous one has ended.
        say: Tells the person at the terminal, a line at a time.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        changes: AsyncGenerator[Collection[Path], None],
        *,
        stop_first: bool,
        say: Callable[[str], None],
    ) -> None:
        self._command = command
        self._changes = changes
        self._stop_first = stop_first
        self.say = say
        # Events are handled in order, one at a time.
        self._events: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self._tasks = Tasks("supervisor")
        self._serving: Child | None = None
        self._coming: Child | None = None
        self._leaving: set[Child] = set()
        self._last: set[Child] = set()  # children alive at the signal: how they end decides our exit code
        self._due = True  # whether a process must be started
        self._received: list[signal.Signals] = []
        self._failed = False

    async def run(self) -> int:
        """Supervise until a signal; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._events.put_nowait, partial(self._signalled, number))
        async with self._tasks:
            self._tasks.start(self._watch(), "changes of files")
            await asyncio.sleep(0)  # the first step of `changes`: changes during the first start count
            while not self._done:
                if self._due and not (self._stop_first and self._leaving):
                    self._due = False
                    self._coming = await Child.start(self._command, self._tasks, self)
                (await self._events.get())()
        if len(self._received) > 1:
            return 128 + self._received[1]
        return 1 if self._failed else 0

    @property
    def _stopping(self) -> bool:
        return bool(self._received) or self._failed

    @property
    def _done(self) -> bool:
        return self._stopping and not (self._serving or self._coming or self._leaving)

    # Events

    async def _watch(self) -> None:
        try:
            async with aclosing(self._changes) as changes:
                async for paths in changes:
                    self._events.put_nowait(partial(self._changed, paths))
        except Exception as exc:  # the system's limit of watches, a folder that is gone
            self._events.put_nowait(partial(self._blind, exc))

    def _changed(self, paths: Collection[Path]) -> None:
        if self._stopping:
            return
        self.say(f"reloading: {_list(paths)} changed")
        self._due = True
        # The coming process may have read the files before they changed.
        self._dismiss(self._coming)
        if self._stop_first:
            self._dismiss(self._serving)

    def checked(self, child: Child) -> None:
        """Let the child start: at once, or when the previous process has left."""
        self._events.put_nowait(partial(self._checked, child))

    def _checked(self, child: Child) -> None:
        if child is not self._coming:
            return
        if child.address or child.alone:
            self._dismiss(self._serving)
            self._tasks.start(self._give_way(child), "a process that waits for its turn")
        else:
            child.go()

    def started(self, child: Child) -> None:
        """Let the previous process leave."""
        self._events.put_nowait(partial(self._started, child))

    def _started(self, child: Child) -> None:
        if child is self._coming:
            self._dismiss(self._serving)
            self._serving, self._coming = child, None

    def ended(self, child: Child) -> None:
        """Say that the child has ended, unless it was told to stop."""
        self._events.put_nowait(partial(self._ended, child))

    def _ended(self, child: Child) -> None:
        if child in self._leaving:
            self._leaving.discard(child)
            # While it imports, a child handles no signals. After a second signal, that one is our exit code.
            if child in self._last and child.code not in (0, -signal.SIGTERM):
                self._failed = True
            return
        how = _ending(child)
        if child is self._serving:
            self._serving = None
            if not self._coming and not self._due:
                self.say(f"not serving ({how}): waiting for a change")
        elif child is self._coming:
            self._coming = None
            if self._serving is None:
                self.say(f"not serving ({how}): waiting for a change")
                return
            self.say(f"not reloaded ({how}): the process before serves on; waiting for a change")
            if child.passed:
                self.say("if two of this program cannot run side by side: --reload-stop-first")

    def _signalled(self, number: signal.Signals) -> None:
        self._received.append(number)
        if len(self._received) == 1:
            self.say("stopping")
            self._stop()
        else:
            for child in self._leaving:
                child.stop()

    def _blind(self, exc: Exception) -> None:
        if not self._stopping:
            self.say(f"files cannot be watched: {exc}")
            self._failed = True
            self._stop()

    # Actions

    def _stop(self) -> None:
        self._due = False
        self._last = {child for child in (self._coming, self._serving) if child is not None}
        for child in self._last:
            self._dismiss(child)

    def _dismiss(self, child: Child | None) -> None:
        if child is None:
            return
        self._leaving.add(child)
        if child is self._coming:
            self._coming = None
        if child is self._serving:
            self._serving = None
        child.stop()

    async def _give_way(self, child: Child) -> None:
        """Wait until previous processes have ended or freed the port: their last calls may take long."""
        while self._leaving:
            if child.address and await _is_free(child.address):
                break
            await asyncio.sleep(_PORT_INTERVAL)
        child.go()


async def _is_free(address: str) -> bool:
    host, port = split_address(address)
    try:
        await probe(host or "::", port)
    except StartError:
        return False
    except ConfigError:
        pass  # the process will report it
    return True


def _ending(child: Child) -> str:
    assert child.code is not None
    if child.code < 0:
        try:
            return f"killed by {signal.Signals(-child.code).name}"
        except ValueError:
            return f"killed by signal {-child.code}"
    return f"exit code {child.code}"


def _list(paths: Collection[Path]) -> str:
    here = Path.cwd()
    names = sorted(os.path.relpath(path, here) if path.is_relative_to(here) else str(path) for path in paths)
    if len(names) > _NAMED:
        names[_NAMED - 1 :] = [f"{len(names) - _NAMED + 1} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
