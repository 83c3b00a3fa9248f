"""The supervisor of `pymicro up` and `pymicro run --reload`: processes that serve, kept running.

It never imports grpc or the user's code. After a change of files the new process starts
first, and the previous one leaves once the new one is registered, so that callers always
have a node. Two processes cannot listen on one fixed port. In that case the new process
gets as far as it can without the port, and then the previous one leaves first.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import ExitStack, aclosing
from functools import partial
from pathlib import Path

from pymicro.base.tasks import Tasks
from pymicro.runtime.child import Apart
from pymicro.runtime.guard import Guard
from pymicro.runtime.output import MergedLog
from pymicro.runtime.program import Program, Restarts
from pymicro.runtime.replica import Replica

__all__ = ["Supervisor"]

# How many of the changed files are named.
_NAMED = 3
# 128 + SIGPIPE, as of a program without a handler for it.
_NOBODY_READS = 141


class Supervisor:
    """Runs programs, each in as many processes as it wants.

    Args:
        programs: What to run.
        changes: Yields the files that have changed, from its first step on; None for no reload.
        restarts: When a process that crashed is started again; None for only after a change.
        output: Where all that the processes print goes, entered by the caller. Then each process
            has a session of its own. None: they share the supervisor's terminal.
        say: Tells the person at the terminal, a line at a time.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        changes: AsyncGenerator[Collection[Path], None] | None = None,
        *,
        restarts: Restarts | None = None,
        output: MergedLog | None = None,
        say: Callable[[str], None],
    ) -> None:
        self._programs = programs
        self._changes = changes
        self._restarts = restarts
        self._output = output
        self._say = say
        # Events are handled in order, one at a time.
        self._events: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self._tasks = Tasks("supervisor")
        self._replicas: list[Replica] = []
        self._received: list[signal.Signals] = []
        self._stopping = False
        self._failed = False
        self._unread = False

    async def run(self) -> int:
        """Supervise until a signal, or until nothing is left to run; return the exit code.

        The exit code is 0 if all has stopped cleanly, 1 if not, 128 plus the signal's number after
        a second signal, 141 if nobody reads the output any more.
        """
        loop = asyncio.get_running_loop()
        for number in self._signals():
            loop.add_signal_handler(number, self._events.put_nowait, partial(self._signalled, number))
        with ExitStack() as stack:
            apart = None
            if self._output is not None:
                apart = Apart(self._output, stack.enter_context(Guard()))
                self._output.gone = lambda: self._events.put_nowait(self._nobody_reads)
            async with self._tasks:
                self._replicas = [
                    self._replica(program, label, apart)
                    for program in self._programs
                    for label in program.labels()
                ]
                if self._changes is not None:
                    self._tasks.start(self._watch(self._changes), "changes of files")
                    # The first step of `changes`: changes during the first start count.
                    await asyncio.sleep(0)
                await self._supervise()
        if len(self._received) > 1:
            return 128 + self._received[1]
        if self._unread:
            return _NOBODY_READS
        return 1 if self._failed or self.failed else 0

    async def _supervise(self) -> None:
        while True:
            for replica in self._replicas:
                # Signals come between two starts: many processes take long to start.
                if replica.can_start and self._events.empty():
                    await replica.start()
            if self._events.empty() and self._done:
                return
            (await self._events.get())()

    def _signals(self) -> list[signal.Signals]:
        signals = [signal.SIGTERM, signal.SIGINT]
        # When a terminal goes, processes that share it hear of that themselves.
        if self._output is not None and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signals.append(signal.SIGHUP)
        return signals

    def _replica(self, program: Program, label: str, apart: Apart | None) -> Replica:
        return Replica(
            program,
            label,
            restarts=self._restarts,
            reloads=self._changes is not None,
            apart=apart,
            tasks=self._tasks,
            post=self._events.put_nowait,
            say=self._say,
        )

    @property
    def failed(self) -> list[str]:
        """What each of those is called that did not end cleanly, or was given up."""
        return [replica.label for replica in self._replicas if replica.failed]

    @property
    def _done(self) -> bool:
        if self._stopping:
            return not any(replica.alive for replica in self._replicas)
        return self._changes is None and all(replica.over for replica in self._replicas)

    # Events

    async def _watch(self, changes: AsyncGenerator[Collection[Path], None]) -> None:
        try:
            async with aclosing(changes):
                async for paths in changes:
                    self._events.put_nowait(partial(self._changed, paths))
        except Exception as exc:  # the system's limit of watches, a folder that is gone
            self._events.put_nowait(partial(self._blind, exc))

    def _changed(self, paths: Collection[Path]) -> None:
        if self._stopping:
            return
        for program in self._programs:
            if concerned := [path for path in paths if program.concerned(path)]:
                name = f" {program.name}" if program.name else ""
                self._say(f"reloading{name}: {_list(concerned)} changed")
                for replica in self._replicas:
                    if replica.program is program:
                        replica.changed()

    def _signalled(self, number: signal.Signals) -> None:
        self._received.append(number)
        if self._stopping:
            for replica in self._replicas:
                replica.hurry()
        else:
            self._say("stopping")
            self._stop()

    def _blind(self, exc: Exception) -> None:
        if not self._stopping:
            self._say(f"files cannot be watched: {exc}")
            self._failed = True
            self._stop()

    def _nobody_reads(self) -> None:
        self._unread = True
        if not self._stopping:
            self._stop()

    def _stop(self) -> None:
        self._stopping = True
        for replica in self._replicas:
            replica.stop()


def _list(paths: Collection[Path]) -> str:
    here = Path.cwd()
    names = sorted(os.path.relpath(path, here) if path.is_relative_to(here) else str(path) for path in paths)
    if len(names) > _NAMED:
        names[_NAMED - 1 :] = [f"{len(names) - _NAMED + 1} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
