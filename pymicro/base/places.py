"""Where a thread is: the line of the user's own code, not that of a library below it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from types import FrameType

__all__ = ["CodePlace", "depth", "line_of", "place_of"]

_STANDARD = os.path.dirname(os.__file__) + os.sep
_PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

# Homes of code besides installed packages, which go by their names.
_LIBRARY, _FRAMEWORK, _OWN = "the standard library", "what calls handlers", "the program's own files"


@dataclass(frozen=True, slots=True)
class CodePlace:
    """A line of code.

    Attributes:
        file: As Python names it.
        line: Its number.
        function: With its class: `Greeter.say_hello`.
        caller: The handler, task or callback from which the line was reached, as text;
            empty if the line is in that itself.
    """

    file: str
    line: int
    function: str
    caller: str = ""

    def __str__(self) -> str:
        within = f", called by {self.caller}" if self.caller else ""
        return f"{self.function} ({self.file}:{self.line}){within}"


def depth(frame: FrameType | None) -> int:
    """The number of frames of a stack, given its innermost one."""
    count = 0
    while frame is not None:
        count += 1
        frame = frame.f_back
    return count


def place_of(frame: FrameType | None, below: int) -> CodePlace | None:
    """The innermost line of the user's code in a stack; else the innermost line at all.

    Args:
        frame: The innermost frame.
        below: How many of the outermost frames are the event loop's own.

    Returns None for a loop that runs nothing. The user's code is what the framework has
    called last: of that the program's own files, or, if the program is installed too, the
    package that was called.
    """
    stack: list[FrameType] = []
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    stack = stack[: max(0, len(stack) - below)]
    if not stack:
        return None
    called: list[tuple[str, FrameType]] = []
    for inner in stack:
        home = _home(inner.f_code.co_filename)
        if home == _FRAMEWORK and called:
            break
        if home not in (_FRAMEWORK, _LIBRARY):
            called.append((home, inner))
    if not called:
        return _place(stack[0])
    own = _OWN if any(home == _OWN for home, _ in called) else called[-1][0]
    frames = [inner for home, inner in called if home == own]
    return _place(frames[0], str(_place(frames[-1])) if len(frames) > 1 else "")


def line_of(error: BaseException) -> str:
    """`app.py:12`, the line of the function that we called and that raised; empty if it has none."""
    for frame in extract_tb(error.__traceback__):
        if not frame.filename.startswith(_PACKAGE):
            return f"{frame.filename}:{frame.lineno}"
    return ""


def _place(frame: FrameType, caller: str = "") -> CodePlace:
    code = frame.f_code
    return CodePlace(code.co_filename, frame.f_lineno or code.co_firstlineno, code.co_qualname, caller)


def _home(file: str) -> str:
    if file.startswith(_PACKAGE):
        return _FRAMEWORK
    for folder in _INSTALLED:
        if folder in file:
            package = file.rpartition(folder)[2].partition(os.sep)[0]
            return _FRAMEWORK if package in ("grpc", "uvloop") else package
    if file.startswith((_STANDARD, "<frozen ")):
        return _LIBRARY
    return _OWN
