"""Makes the n-th step of some modules fail: each await, and each call that opens or starts something.

    async with stumbling(n, "pymicro/discovery/") as stumble:
        …
    assert stumble.at  # None if there were fewer than n steps

Run it for n = 0, 1, 2 … until nothing failed: then every step has failed once.

A step is an `await` (also that of an `async for` or `async with`, and one that would return
without suspending), found in the bytecode by a trace function; or a call that opens a file or a
socket, lists a folder, locks, removes or starts a thread, found by Python's audit events.
"""

from __future__ import annotations

import asyncio
import dis
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

__all__ = ["Odd", "Stumble", "stumbling"]

_AWAITS = {dis.opmap[name] for name in ("GET_AWAITABLE", "GET_ANEXT") if name in dis.opmap}
# GET_AWAITABLE's argument for the await of an __aexit__. Such a step fails when it is over: a lock or
# a timeout that was never left would be no fault that anything of ours could have.
_LEAVING = 2
_OPENS = frozenset(
    {
        "_thread.start_new_thread",
        "_thread.start_joinable_thread",
        "fcntl.flock",
        "open",
        "os.listdir",
        "os.remove",
        "os.rename",
        "socket.__new__",
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.sendto",
    }
)


class Odd(Exception):
    """What nobody thought of."""


class Stumble:
    """One failure, of the n-th step from now on.

    Attributes:
        at: Where it happened: `file:line`; None if it did not (yet).
        task: The name of the task in which it happened.
        steps: Steps so far.
    """

    def __init__(self, number: int, folders: tuple[str, ...]) -> None:
        self.at: str | None = None
        self.task = ""
        self.steps = 0
        self._number = number
        self._folders = folders
        self._armed = False
        self._own: asyncio.Task[Any] | None = None

    def arm(self) -> None:
        """Count from now on; what the current task does is not meant."""
        self._own = asyncio.current_task()
        self._armed = True
        sys.settrace(self._called)

    def disarm(self) -> None:
        """Let everything pass."""
        self._armed = False
        sys.settrace(None)

    def _meant(self, code: CodeType) -> bool:
        return any(folder in code.co_filename for folder in self._folders)

    def _called(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if not self._armed or not self._meant(frame.f_code) or not _awaits(frame.f_code):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._opcode

    def _opcode(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if self._armed and event == "opcode" and frame.f_lasti in _awaits(frame.f_code):
            self._step(frame)
        return self._opcode

    def opens(self, event: str) -> None:
        """An audit event."""
        if not self._armed or event not in _OPENS:
            return
        frame: FrameType | None = sys._getframe()
        while frame is not None and not self._meant(frame.f_code):
            frame = frame.f_back
        if frame is not None:
            self._step(frame, event)

    def _step(self, frame: FrameType, event: str = "await") -> None:
        task = asyncio.current_task()
        if task is self._own:
            return
        self.steps += 1
        if self.steps > self._number:
            self.disarm()
            self.task = task.get_name() if task is not None else ""
            name = frame.f_code.co_filename.rpartition("pymicro/")[2]
            self.at = f"{name}:{frame.f_lineno} ({event})"
            raise Odd(self.at)


@functools.cache
def _awaits(code: CodeType) -> frozenset[int]:
    found = set()
    leaves = False
    for one in dis.get_instructions(code):
        if one.opname == "SEND" and leaves:
            found.add(one.argval)  # where it goes on when the await is over
            leaves = False
        elif one.opcode in _AWAITS:
            leaves = one.arg == _LEAVING
            if not leaves:
                found.add(one.offset)
    return frozenset(found)


_stumbles: list[Stumble] = []


def _hook(event: str, _: object) -> None:
    if _stumbles and event in _OPENS:
        _stumbles[-1].opens(event)


@functools.cache
def _install() -> None:
    sys.addaudithook(_hook)  # for good: Python knows no way to take one back


@contextmanager
def stumbling(number: int, *folders: str) -> Iterator[Stumble]:
    """The step of this number fails with `Odd`, once; the caller arms it."""
    _install()
    stumble = Stumble(number, folders)
    _stumbles.append(stumble)
    before = sys.gettrace()
    try:
        yield stumble
    finally:
        stumble.disarm()
        sys.settrace(before)
        _stumbles.remove(stumble)
