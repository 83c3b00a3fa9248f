"""Programs that tests start: their output line by line, and their end.

    server = processes.pymicro("run", "examples/greeter/server.py")
    server.wait_for(r"greeter .*127\\.0\\.0\\.1:(\\d+)")

Plain blocking functions; in a coroutine use `await asyncio.to_thread(…)`.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent

# Seconds for the start of a Python on a machine that runs many: only a failure waits so long.
PATIENCE = 90.0


# What `make` and `.ci/run` hand down to their own; a `make` that a test starts is another one. Some
# machines of CI ask every program for colours.
MAKES_OWN = frozenset(
    {"FORCE_COLOR", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "PYTEST_ARGS", "PYTHON", "VENV"}
)


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without settings of pymicro's and make's, and with `extra`.

    The transport stays: with `--transport fast` all programs use it.
    """
    ours = {
        name: value
        for name, value in os.environ.items()
        if (not name.startswith("MICRO_") or name == "MICRO_TRANSPORT") and name not in MAKES_OWN
    }
    # Lines must arrive when they are printed, and -W error would reach other people's code.
    return {**ours, "PYTHONUNBUFFERED": "1", **extra}


class Process:
    """One program. Everything it prints is kept, in the order it came."""

    def __init__(self, argv: list[str], *, env: Mapping[str, str], cwd: Path) -> None:
        self.argv = argv
        self._changed = threading.Condition()
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._lines: list[str] = []
        self._seen = 0
        self._open = 2
        self._popen = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=arguments, daemon=True)
            for arguments in ((self._popen.stdout, self.stdout), (self._popen.stderr, self.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe: IO[str], kept: list[str]) -> None:
        with pipe:
            for line in pipe:
                with self._changed:
                    kept.append(line.rstrip("\n"))
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def report(self) -> str:
        """What ran and all that it printed, for messages."""
        with self._changed:
            lines = "\n".join(f"    {line}" for line in self._lines) or "    (nothing)"
        state = "is running" if self.running else f"exited with {self._popen.returncode}"
        return f"{' '.join(self.argv)} (pid {self.pid}) {state} and printed:\n{lines}"

    def wait_for(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str]:
        """The first line matching `pattern` (`re.search`) after the one found last.

        Fails the test if the program ends without it or `timeout` seconds pass.
        """
        found: re.Match[str] | None = None

        def looked() -> bool:
            nonlocal found
            while found is None and self._seen < len(self._lines):
                found = re.search(pattern, self._lines[self._seen])
                self._seen += 1
            return found is not None or self._open == 0

        with self._changed:
            self._changed.wait_for(looked, timeout)
        if found is None:
            raise AssertionError(f"no line matches {pattern!r} within {timeout} s: {self.report()}")
        return found

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended gets none."""
        if self.running:
            self._popen.send_signal(number)

    def wait(self, timeout: float = 30) -> int:
        """The exit code (minus the signal's number if one ended it), all output read."""
        try:
            code = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {timeout} s: {self.report()}") from None
        for reader in self._readers:
            # A child of the program may hold the pipes open; what it writes is not waited for.
            reader.join(2)
        return code

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM, then the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> int:
        """SIGKILL, then the exit code."""
        self.signal(signal.SIGKILL)
        return self.wait()


async def seen(process: Process, pattern: str) -> re.Match[str]:
    """`wait_for`, in a coroutine."""
    return await asyncio.to_thread(process.wait_for, pattern)


async def ended(process: Process) -> int:
    """`wait`, in a coroutine."""
    return await asyncio.to_thread(process.wait)


async def nobody_left(process: Process) -> None:
    """Return when the last process that holds its pipes is gone."""
    for reader in process._readers:
        await asyncio.to_thread(reader.join, 20)
        assert not reader.is_alive(), "somebody goes on"


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that only looking shows."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def children(pid: int) -> list[int]:
    """The processes that a process has started; Linux only."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in found.read_text().split()] if found.exists() else []


def mapped_files(pid: int) -> str:
    """The files that a process has in its memory, its libraries among them; Linux only."""
    return Path(f"/proc/{pid}/maps").read_text()


class Processes:
    """All programs of one test; left, it ends those that still run."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.started: list[Process] = []

    def start(self, *argv: str, cwd: Path = ROOT, **env: str) -> Process:
        """Start a program, `env` added to its environment."""
        process = Process(list(argv), env={**self.environment, **env}, cwd=cwd)
        self.started.append(process)
        return process

    def python(self, *argv: str, cwd: Path = ROOT, **env: str) -> Process:
        """Start `python …` with the Python that runs the tests."""
        return self.start(sys.executable, *argv, cwd=cwd, **env)

    def pymicro(self, *argv: str, cwd: Path = ROOT, **env: str) -> Process:
        """Start `python -m pymicro …`."""
        return self.python("-m", "pymicro", *argv, cwd=cwd, **env)

    def end(self) -> None:
        """SIGTERM to all that still run, SIGKILL to those that do not heed it."""
        for process in self.started:
            process.signal(signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(5)
            except AssertionError:
                process.kill()
