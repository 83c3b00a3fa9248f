"""One of the processes of `pymicro run --reload`, as its supervisor sees it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Protocol, Self

from pymicro.base.durations import format_duration
from pymicro.base.tasks import Tasks
from pymicro.runtime.supervised import GO, MARGIN

__all__ = ["Child", "Listener"]


class Listener(Protocol):
    """Hears what becomes of a child."""

    def say(self, text: str) -> None:
        """Tell the person at the terminal."""

    def checked(self, child: Child) -> None:
        """The child's code is imported and fits; the child waits for `go`."""

    def started(self, child: Child) -> None:
        """The child serves, and is registered."""

    def ended(self, child: Child) -> None:
        """The process has ended; `code` says how."""


class Child:
    """A process that serves, or is about to.

    Attributes:
        address: The `host:port` that it needs and another process may hold; empty
            for any port. Known when the child is checked, like `alone`.
        alone: Whether the previous process must have ended for another reason.
        passed: Whether it was told to go on; then a failure is a failure to start.
        stopping: Whether it was told to stop.
        code: Its exit code, or minus the number of the signal that ended it; None while it runs.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        listener: Listener,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._listener = listener
        self._longest = MARGIN
        self._killing: asyncio.TimerHandle | None = None
        self.address = ""
        self.alone = False
        self.passed = False
        self.stopping = False
        self.code: int | None = None

    @classmethod
    async def start(cls, command: Callable[[int], Sequence[str]], tasks: Tasks, listener: Listener) -> Self:
        """Start a process.

        Args:
            command: Makes the command to run, from the descriptor of the child's socket.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            # Otherwise its interpreter would answer Ctrl-C with a traceback before our code runs there.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                descriptor = theirs.fileno()
                process = await asyncio.create_subprocess_exec(*command(descriptor), pass_fds=[descriptor])
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        child = cls(process, *await asyncio.open_connection(sock=ours), listener)
        tasks.start(child._follow(tasks), f"process {process.pid}")
        return child

    def go(self) -> None:
        """Let it start to serve."""
        self.passed = True
        if self.code is None:
            self._writer.write(GO)

    def stop(self) -> None:
        """Ask it to stop, and kill it if it takes too long; asked again, it does not wait for calls."""
        if self.code is not None:
            return
        longest = MARGIN if self.stopping else self._longest
        self.stopping = True
        self._process.terminate()
        if self._killing is not None:
            self._killing.cancel()
        self._killing = asyncio.get_running_loop().call_later(longest, self._kill, longest)

    def _kill(self, waited: float) -> None:
        self._listener.say(
            f"process {self._process.pid} did not stop within {format_duration(round(waited, 1))}: killed"
        )
        self._process.kill()

    async def _follow(self, tasks: Tasks) -> None:
        # The process may have ended while a process that it forked still holds the socket open.
        reading = tasks.start(self._read(), f"words of process {self._process.pid}")
        try:
            self.code = await self._process.wait()
        finally:
            reading.cancel()
            self._writer.close()
            if self._killing is not None:
                self._killing.cancel()
        self._listener.ended(self)

    async def _read(self) -> None:
        try:
            async for line in self._reader:
                message = json.loads(line)
                if message["event"] == "checked":
                    self.address, self.alone = message["address"], message["alone"]
                    self._longest = message["longest"]
                    self._listener.checked(self)
                else:
                    self._listener.started(self)
        except ConnectionError:
            pass  # it has ended without reading everything it was told
