"""Processes the benchmarks start, and end by themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from benchmarks.greeter import ROOT, TEXT_LENGTH

__all__ = ["GoLoad", "GoServer", "ServerProcess", "go_peer", "run_python"]


def go_peer() -> str:
    """The path of the Go program that is the fast other end (`benchmarks/peer`).

    Raises:
        SystemExit: Nobody has built it.
    """
    if path := os.environ.get("BENCH_PEER"):
        return path
    raise SystemExit(
        "the benchmarks' Go peer is not built: run `make bench`, or set BENCH_PEER=$(scripts/benchpeer), "
        "or measure against Python with `--peer python`"
    )


class Child:
    """A process that answers each line it reads with a line, and ends when its stdin does."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def ask(self, line: str = "") -> str:
        """Its answer to `line`; blocks until it comes."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the process {self._process.pid} ended with exit code {self._process.wait()}; "
                "its output above says why"
            )
        return line

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            # Under valgrind it takes a while.
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Server(Child):
    """A server whose first line lists where it listens.

    Attributes:
        addresses: Where it listens.
    """

    addresses: list[str]

    def __enter__(self) -> Self:
        try:
            self.addresses = json.loads(self._line())
        except BaseException:
            self._end()
            raise
        return self

    def cpu(self) -> float:
        """CPU seconds the process has used, all its threads together."""
        return float(self.ask())


class ServerProcess(Server):
    """A Python server (`benchmarks/server.py`), under `tool` if that is given."""

    def __init__(self, kind: str, *, ports: int = 1, loop: str = "asyncio", tool: Sequence[str] = ()) -> None:
        command = ["-m", "benchmarks.server", kind, "--ports", str(ports), "--loop", loop]
        super().__init__([*tool, sys.executable, *command])


class GoServer(Server):
    """The Go server, with the files of a certificate over TLS."""

    def __init__(self, *, ports: int = 1, files: Sequence[str] = ()) -> None:
        super().__init__([go_peer(), "serve", str(ports), *files])


class GoLoad(Child):
    """The Go client, connected to one address, with the files of a certificate over TLS."""

    def __init__(self, address: str, files: Sequence[str] = ()) -> None:
        super().__init__([go_peer(), "load", address, *files])

    def run(self, method: str, in_flight: int, count: int, length: int = TEXT_LENGTH) -> None:
        """Make `count` calls, or one stream of so many messages, with texts of this length.

        Blocks until all have ended.
        """
        self.ask(f"{method} {in_flight} {count} {length}")


def run_python(*arguments: str, tool: Sequence[str] = (), timeout: float = 120) -> str:
    """What a Python process with these arguments prints, run under `tool` if that is given.

    Compiled code is kept, as for everybody who did not switch that off: else
    importing would be measured with the compiler.

    Raises:
        subprocess.CalledProcessError: It failed; its stderr is ours.
    """
    done = subprocess.run(
        [*tool, sys.executable, *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=timeout,
    )
    return done.stdout
