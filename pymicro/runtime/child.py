"""One process, as its supervisor sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol, Self

from pymicro.base.durations import format_duration
from pymicro.base.tasks import Tasks
from pymicro.runtime.guard import Guard
from pymicro.runtime.guard_process import LEFT_BEHIND
from pymicro.runtime.output import MergedLog
from pymicro.runtime.program import Program
from pymicro.runtime.supervised import GO, MARGIN

__all__ = ["Apart", "Child", "Listener"]

# Seconds between two looks at whether the processes that a process has left behind are gone.
_INTERVAL = 0.02
# Seconds for the last words of a process that has ended, if somebody else still holds its pipe.
_LAST_WORDS = 1.0


class Listener(Protocol):
    """Hears what becomes of a child."""

    def say(self, text: str) -> None:
        """Tell the person at the terminal."""

    def checked(self, child: Child) -> None:
        """The child's code is imported and fits; the child waits for `go`."""

    def started(self, child: Child) -> None:
        """The child serves, and is registered; of one that does not speak, that it runs."""

    def ended(self, child: Child) -> None:
        """The process has ended, with all that it had started in its group; `code` says how."""


@dataclass(frozen=True, slots=True)
class Apart:
    """What processes need that do not share the supervisor's terminal.

    Each then leads a session, and a process group, of its own: Ctrl-C reaches the supervisor
    alone, and what a process leaves behind can be ended. It reads nothing, and what it prints
    goes into the merged log. A process that shares the terminal can be debugged there.
    """

    output: MergedLog
    guard: Guard


class Child:
    """A process that serves, or is about to.

    Attributes:
        address: The `host:port` that it needs and another process may hold; empty
            for any port. Known when the child is checked, like `alone`.
        alone: Whether the previous process must have ended for another reason.
        passed: Whether it was told to go on; then a failure is a failure to start.
        stopping: Whether it was told to stop.
        code: Its exit code, or minus the number of the signal that ended it; None while it runs.
        began: The moment at which it had started, by the loop's clock; None before.
    """

    def __init__(
        self, program: Program, process: asyncio.subprocess.Process, apart: Apart | None, listener: Listener
    ) -> None:
        self._program = program
        self._process = process
        self._apart = apart
        self._listener = listener
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._words: asyncio.Task[None] | None = None
        self._longest = MARGIN if program.speaks else program.grace
        self._killing: asyncio.TimerHandle | None = None
        self._asked = 0
        self.address = ""
        self.alone = False
        self.passed = False
        self.code: int | None = None
        self.began: float | None = None

    @classmethod
    async def start(
        cls, program: Program, label: str, apart: Apart | None, tasks: Tasks, listener: Listener
    ) -> Self:
        """Start a process.

        Args:
            label: What it is called in the merged log.
            apart: For one that does not share the terminal.
            tasks: Owner of what follows the process.

        Raises:
            OSError: The program cannot be executed.
        """
        if apart is not None:
            apart.guard.start()
        with ExitStack() as mine, ExitStack() as theirs:
            descriptor, ours, words = -1, None, None
            stdin, stdout = None, None  # those of the supervisor
            if program.speaks:
                ours, end = socket.socketpair()
                mine.enter_context(ours)
                theirs.enter_context(end)
                descriptor = end.fileno()
            if apart is not None:
                stdin = asyncio.subprocess.DEVNULL
                stdout, words = await _listen(apart.output, label, tasks)
                theirs.callback(os.close, stdout)
            with _interrupts_later() if program.speaks else nullcontext():
                process = await asyncio.create_subprocess_exec(
                    *program.command(descriptor),
                    pass_fds=[descriptor] if program.speaks else [],
                    cwd=program.folder,
                    env=program.environment,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stdout,
                    # A program that opens its terminal gets an error there. In a process group
                    # of the same session it would be stopped, and never hear a SIGTERM.
                    start_new_session=apart is not None,
                )
            mine.pop_all()  # from here on its own
        child = cls(program, process, apart, listener)
        child._words = words
        child._tell_guard()
        if ours is not None:
            reader, child._writer = await asyncio.open_connection(sock=ours)
            child._reading = tasks.start(child._read(reader), f"what process {process.pid} says")
        else:
            child._has_started()
        tasks.start(child._follow(), f"process {process.pid}")
        return child

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._asked > 0

    def go(self) -> None:
        """Let it start to serve."""
        self.passed = True
        if self.code is None and self._writer is not None:
            self._writer.write(GO)

    def stop(self) -> None:
        """Ask it to stop, and kill it if it takes too long.

        Asked again, it does not wait for calls, if it speaks; otherwise, and when it is asked
        for a third time, it is killed at once.
        """
        if self.code is not None:
            return
        self._asked += 1
        if self._killing is not None:
            self._killing.cancel()
        if self._asked > (2 if self._program.speaks else 1):
            self._end()
            return
        longest = self._longest if self._asked == 1 else MARGIN
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            self._process.terminate()
        self._killing = asyncio.get_running_loop().call_later(longest, self._kill, longest)

    def _kill(self, waited: float) -> None:
        self._listener.say(
            f"process {self._process.pid} did not stop within {format_duration(round(waited, 1))}: killed"
        )
        self._end()

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._apart is None:
                self._process.kill()
            elif self.code is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def _tell_guard(self) -> None:
        if self._apart is not None:
            # One that speaks hears of its supervisor's end itself. Told twice, it would not wait for calls.
            self._apart.guard.add(self._process.pid, self._longest, ask=not self._program.speaks)

    def _has_started(self) -> None:
        self.passed = True
        self.began = asyncio.get_running_loop().time()
        self._listener.started(self)

    async def _follow(self) -> None:
        # The process may have ended while a process that it forked still holds socket and pipe open.
        try:
            self.code = await self._process.wait()
        finally:
            if self._reading is not None:
                self._reading.cancel()
            if self._writer is not None:
                self._writer.close()
            if self._killing is not None:
                self._killing.cancel()
        if self._apart is not None:
            await _end_group(self._process.pid)
            self._apart.guard.remove(self._process.pid)
        if self._words is not None:
            await asyncio.wait([self._words], timeout=_LAST_WORDS)
        self._listener.ended(self)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            async for line in reader:
                message = json.loads(line)
                if message["event"] == "checked":
                    self.address, self.alone = message["address"], message["alone"]
                    self._longest = message["longest"]
                    self._tell_guard()
                    self._listener.checked(self)
                else:
                    self._has_started()
        except ConnectionError:
            pass  # it has ended without reading everything it was told


async def _listen(output: MergedLog, label: str, tasks: Tasks) -> tuple[int, asyncio.Task[None]]:
    """A pipe to print into: its end for the process, and the task that reads the other one."""
    ours, theirs = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", 0)
    )

    async def follow() -> None:
        try:
            await output.follow(reader, label)
        finally:
            transport.close()

    return theirs, tasks.start(follow(), f"what {label} prints")


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Start a process that answers SIGINT only when it says so (`Supervised`).

    Otherwise its interpreter would answer Ctrl-C with a traceback before our code runs there.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _end_group(leader: int) -> None:
    """End what a process has left behind: it may hold a port, or files."""
    loop = asyncio.get_running_loop()
    for number in (int(signal.SIGTERM), int(signal.SIGKILL)):
        until = loop.time() + LEFT_BEHIND
        send = number
        while loop.time() < until:
            try:
                os.killpg(leader, send)
            except OSError:  # nobody is left; macOS says EPERM of those that nobody has waited for yet
                return
            send = 0  # only look
            _reap(leader)
            await asyncio.sleep(_INTERVAL)


def _reap(leader: int) -> None:
    """Wait for those of a group that have ended and are ours: a container's first process inherits them."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-leader, os.WNOHANG)[0]:
            pass
