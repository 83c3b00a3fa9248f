"""The progress of `pymicro bench`, on one line of a terminal."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from pymicro.base.durations import format_duration
from pymicro.base.tasks import Tasks
from pymicro.cli.load import Load
from pymicro.cli.report import on_terminal
from pymicro.cli.tally import Tally

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

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
        self._bar: Bar | None = None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        if self._shown:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            from pymicro.cli.terminal import console_of

            # Drawn by a task: the thread that rich would start takes turns from the calls.
            self._bar = Bar(
                BarColumn(_BAR),
                TextColumn("{task.description}", markup=False),
                console=console_of(sys.stderr),
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._bar.start()
            self._tasks.start(self._draw(self._bar), "draw")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._tasks.__aexit__(None, None, None)
        if self._bar is not None:
            self._bar.stop()

    async def _draw(self, bar: Bar) -> None:
        task = bar.add_task("", total=1.0)
        while True:
            done, text = self._now()
            bar.update(task, completed=min(done, 1.0), description=text, refresh=True)
            await asyncio.sleep(_INTERVAL)

    def _now(self) -> tuple[float, str]:
        """The part that is done, and what has come of it."""
        load, tally = self._load, self._tally
        passed = time.monotonic() - self._begin
        calls = tally.calls
        done = passed / load.seconds
        of = format_duration(load.seconds)
        if load.requests is not None:
            done = max(done, calls / load.requests)
            of = f"{load.requests} calls"
        errors = calls - tally.ok
        return done, (
            f"{passed:.0f}s of {of}  {calls} calls  {calls / max(passed, 0.001):.0f}/s  {errors} errors"
        )
