"""Processes the benchmarks start, and end by themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import TracebackType
from typing import Self

from benchmarks.greeter import ROOT

__all__ = ["ServerProcess", "run_python"]


class ServerProcess:
    """A server in a process of its own (`benchmarks/server.py`).

    Attributes:
        addresses: Where it listens.
    """

    addresses: list[str]

    def __init__(self, kind: str, *, ports: int = 1, loop: str = "asyncio") -> None:
        command = ["-m", "benchmarks.server", kind, "--ports", str(ports), "--loop", loop]
        self._process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        try:
            self.addresses = json.loads(self._line())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def cpu(self) -> float:
        """CPU seconds the process has used, all its threads together."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the server process {self._process.pid} ended with exit code {self._process.wait()}; "
                "its output above says why"
            )
        return line

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def run_python(*arguments: str) -> str:
    """What a Python process with these arguments prints.

    Compiled code is kept, as for everybody who did not switch that off: else
    importing would be measured with the compiler.

    Raises:
        subprocess.CalledProcessError: It failed; its stderr is ours.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout
