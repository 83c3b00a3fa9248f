"""The peers as programs: where they are, how they are run, and how one that calls is asked.

Plain blocking functions, as the fixtures are of the whole run.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster.plane import ending_with_us
from tests.processes import ROOT

HERE = Path(__file__).resolve().parent
SERVER, CALLER = HERE / "programs" / "server.py", HERE / "programs" / "caller.py"

# How long any answer may take; calls of the tests have deadlines far below it.
TIMEOUT = 30.0

Object = dict[str, Any]

TRANSPORT = "MICRO_TRANSPORT"


def go_peer() -> Path:
    """The Go program; a missing one is a failure, not a skipped test."""
    found = os.environ.get("GOMICRO_PEER", "")
    assert found, "GOMICRO_PEER is not set: run `make test-gomicro`, which builds the Go peer"
    assert os.access(found, os.X_OK), f"GOMICRO_PEER is {found}, and that cannot be executed"
    return Path(found)


def make_image(folder: Path) -> None:
    """Fill it with what peers need besides this machine: the Go program and the generated code."""
    from grpc_tools import protoc

    protos = HERE / "protos"
    out = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
    if protoc.main(["protoc", f"-I{protos}", *out, "peer/v1/peer.proto"]) != 0:
        raise RuntimeError("peer.proto does not compile")
    shutil.copy(go_peer(), folder / "peer-go")
    # Containers are no root.
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)


def transport() -> dict[str, str]:
    """The transport of the peers in Python, by `--transport`; go-micro has a variable of this name, too."""
    return {TRANSPORT: os.environ[TRANSPORT]} if TRANSPORT in os.environ else {}


def go_server(image: str) -> list[str]:
    """The command of a server in Go."""
    return [f"{image}/peer-go", "server"]


def python_server() -> list[str]:
    """The command of a server in Python."""
    return [sys.executable, "-m", "pymicro", "run", str(SERVER)]


def go_caller(image: str) -> list[str]:
    """The command of a client in Go."""
    return [f"{image}/peer-go", "client"]


def python_caller() -> list[str]:
    """The command of a client in Python."""
    return [sys.executable, str(CALLER)]


class Caller:
    """A client that runs, in either language, and is told what to do.

    Args:
        argv: The whole command, and what it is run through.
        env: Its whole environment.

    Attributes:
        name: For messages.
    """

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self.name = name
        self._popen = subprocess.Popen(
            [*ending_with_us(), *argv],
            env=dict(env),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._inboxes: dict[int, queue.SimpleQueue[Object | None]] = {}
        self._said: list[str] = []
        self._ended = False
        self._threads = [
            threading.Thread(target=read, daemon=True) for read in (self._read_results, self._read_log)
        ]
        for thread in self._threads:
            thread.start()

    def _read_results(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as lines:
            for line in lines:
                result = json.loads(line)
                self._inboxes[result["id"]].put(result)
        with self._lock:
            self._ended = True
            waiting = list(self._inboxes.values())
        for inbox in waiting:
            inbox.put(None)

    def _read_log(self) -> None:
        assert self._popen.stderr is not None
        with self._popen.stderr as lines:
            self._said.extend(line.rstrip("\n") for line in lines)

    def log(self) -> str:
        """What it wrote besides results, the end of it."""
        return "\n".join(self._said[-30:])

    def tell(self, op: str, **command: Any) -> queue.SimpleQueue[Object | None]:
        """Send a command; its results arrive in the queue, and None if the program ends."""
        number = next(self._numbers)
        inbox: queue.SimpleQueue[Object | None] = queue.SimpleQueue()
        with self._lock:
            assert not self._ended, f"{self.name} has ended: {self.log()}"
            self._inboxes[number] = inbox
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps({"id": number, "op": op, **command}) + "\n")
        self._popen.stdin.flush()
        return inbox

    def ask(self, op: str, **command: Any) -> Object:
        """Send a command and wait for its result."""
        try:
            found = self.tell(op, **command).get(timeout=TIMEOUT)
        except queue.Empty:
            raise AssertionError(f"{self.name}: no answer to {op} in {TIMEOUT:g} s: {self.log()}") from None
        assert found is not None, f"{self.name} ended before it answered {op}: {self.log()}"
        return found

    def watch(self, service: str) -> Watch:
        """Follow a service with the registry's own watcher."""
        return Watch(self, self.tell("watch", service=service), service)

    def close(self) -> None:
        """Let it end by the end of its input."""
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        for thread in self._threads:
            thread.join(5)


class Watch:
    """The events of a service, in the form of who watches: Go's are changes, Python's whole sets.

    Attributes:
        seen: All that have been looked at.
    """

    def __init__(self, caller: Caller, inbox: queue.SimpleQueue[Object | None], service: str) -> None:
        self._caller = caller
        self._inbox = inbox
        self._what = f"a watch of {service}"
        self.seen: list[Any] = []

    def until(
        self,
        what: str,
        wanted: Callable[[Any], bool],
        timeout: float = TIMEOUT,
        nudge: Callable[[], None] | None = None,
    ) -> Any:
        """The first event from now on that is wanted.

        Args:
            what: What is waited for.
            wanted: Whether it is this one.
            timeout: How long, in seconds.
            nudge: Called now and then until it comes.
        """
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            try:
                result = self._inbox.get(timeout=left if nudge is None else 0.5)
            except queue.Empty:
                if nudge is not None:
                    nudge()
                continue
            assert result is not None, f"{self._caller.name} has ended: {self._caller.log()}"
            assert not result.get("error"), f"{self._caller.name}: {self._what}: {result['error']}"
            if "event" in result:
                self.seen.append(result["event"])
                if wanted(result["event"]):
                    return result["event"]
        raise AssertionError(
            f"{self._caller.name}: {self._what}: not within {timeout:g} s: {what}; seen: {self.seen}"
        )
