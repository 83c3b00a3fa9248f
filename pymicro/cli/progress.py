"""The progress of `pymicro bench`, on one line of a terminal."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from types import TracebackType
from typing import Final, Self

from pymicro.base.durations import format_duration
from pymicro.base.tasks import Tasks
from pymicro.cli.load import Load
from pymicro.cli.report import on_terminal
from pymicro.cli.tally import Tally

__all__ = ["Progress"]

_INTERVAL: Final = 0.2
_BAR: Final = 20


class Progress:
    """Redraws the line while it is entered, and leaves nothing behind.

    It does so only if a person reads both streams: none of it goes to a pipe or a file.
    """

    def __init__(self, load: Load, tally: Tally, *, shown: bool) -> None:
        self._load = load
        self._tally = tally
        self._shown = (
            shown and on_terminal() and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        )
        self._begin = time.monotonic()
        self._tasks = Tasks("progress")

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        if self._shown:
            self._tasks.start(self._draw(), "draw")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._tasks.__aexit__(None, None, None)
        if self._shown:
            self._write("\r\x1b[K")

    async def _draw(self) -> None:
        while True:
            # One column less, because some terminals begin a new line at the last one.
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r{self._line()[:width]}\x1b[K")
            await asyncio.sleep(_INTERVAL)

    def _line(self) -> str:
        load, tally = self._load, self._tally
        passed = time.monotonic() - self._begin
        calls = tally.calls
        done = passed / load.seconds
        of = format_duration(load.seconds)
        if load.requests is not None:
            done = max(done, calls / load.requests)
            of = f"{load.requests} calls"
        filled = min(int(done * _BAR), _BAR)
        errors = calls - tally.ok
        return (
            f"[{'#' * filled}{'.' * (_BAR - filled)}] {passed:.0f}s of {of}  {calls} calls"
            f"  {calls / max(passed, 0.001):.0f}/s  {errors} errors"
        )

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
