"""Tracebacks for people: without the frames of pymicro that lead to their own code, or away from it."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

from pymicro.base.errors import PymicroError

__all__ = ["format_traceback", "own_frames", "show_all_frames"]

_PACKAGE = f"{Path(__file__).parent.parent}/"

_all_frames = False


def show_all_frames() -> None:
    """From now on, leave nothing out: `--debug`."""
    global _all_frames
    _all_frames = True


def own_frames(frames: TracebackType | None) -> TracebackType | None:
    """The frames from the program's own code on; None if there are none of it.

    Whoever raises the error again puts a new way before them.
    """
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        frames = frames.tb_next
    return frames


def format_traceback(
    kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
) -> str:
    """The traceback of an error and of its causes, as Python writes it, without our frames.

    If an error shows a fault of pymicro's, because it happened there and is none that
    pymicro raises on purpose, all frames stay.
    """
    if error is None:
        return "NoneType: None"
    whole = traceback.TracebackException(kind or type(error), error, frames)
    if not _all_frames:
        _shorten(whole, error)
    return "".join(whole.format()).rstrip("\n")


def _shorten(shown: traceback.TracebackException | None, error: BaseException | None) -> None:
    if shown is None or error is None:
        return
    theirs = [frame for frame in shown.stack if not frame.filename.startswith(_PACKAGE)]
    if theirs and (theirs[-1] is shown.stack[-1] or isinstance(error, PymicroError)):
        shown.stack = traceback.StackSummary.from_list(theirs)
    _shorten(shown.__cause__, error.__cause__)
    _shorten(shown.__context__, error.__context__)
    if isinstance(error, BaseExceptionGroup):
        for one, inner in zip(shown.exceptions or (), error.exceptions, strict=False):
            _shorten(one, inner)
