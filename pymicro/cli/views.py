"""Live views: redrawn in place on a terminal, a line for each change in a pipe, or JSON documents."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pymicro.cli.listing import columns, shown_cells
from pymicro.cli.report import dump, note, on_terminal, say

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Form", "View", "open_view"]

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


@dataclass(frozen=True, kw_only=True)
class Form(Generic[T]):
    """How things of one kind are shown.

    Attributes:
        title: What the things are, such as `nodes of greeter`.
        header: Names of the columns.
        row: Returns the cells of one thing.
        change: Returns what a line says when a thing came, left or changed; two things
            with equal cells count as equal. `row` if not given.
        to_json: Turns one thing into JSON for programs.
        colour: Returns a thing's colour on a terminal; none if empty.
        fixed: How many columns stay in the row on a narrow terminal; all but the last if None.
    """

    title: str
    header: Sequence[str]
    row: Callable[[T], Sequence[str]]
    to_json: Callable[[T], Any]
    change: Callable[[T], Sequence[str]] | None = None
    colour: Callable[[T], str] = lambda thing: ""
    fixed: int | None = None

    def changing(self, thing: T) -> Sequence[str]:
        """The cells that show whether a thing has changed."""
        return (self.change or self.row)(thing)


class View(Protocol[T_contra]):
    """Shows a set of things again and again."""

    def show(self, things: Mapping[str, T_contra], remark: str = "") -> None:
        """Show all present things, by a key that a thing keeps when it changes.

        Args:
            things: In the order in which to show them.
            remark: About this state, such as why it is empty; shown once while it stays the same.
        """

    def remark(self, text: str) -> None:
        """Show a remark; the last state stays."""


@contextmanager
def open_view(output: str, form: Form[T], *, whole: bool = False) -> Iterator[View[T]]:
    """The view that fits stdout and `-o`; use it inside a running loop.

    Args:
        output: What `-o` says.
        form: How things are shown.
        whole: Whether a pipe gets whole tables, because nearly every row changes each time.
    """
    if output == "json":
        yield _Documents(form)
    elif on_terminal() and os.environ.get("TERM", "dumb") != "dumb":
        screen = _Screen(form)
        screen.enter()
        try:
            yield screen
        finally:
            screen.leave()
            screen.print_last()
    else:
        yield _Tables(form) if whole else _Lines(form)


class _Remarked:
    """Prints remarks on stderr, each once."""

    def __init__(self) -> None:
        self._said = ""

    def remark(self, text: str) -> None:
        if text and text != self._said:
            note(text)
        self._said = text


class _Lines(_Remarked, Generic[T]):
    """A line for each thing that came (+), left (-) or changed (~)."""

    def __init__(self, form: Form[T]) -> None:
        super().__init__()
        self._form = form
        self._shown: dict[str, Sequence[str]] = {}

    def show(self, things: Mapping[str, T], remark: str = "") -> None:
        rows = {key: self._form.changing(thing) for key, thing in things.items()}
        lines = [("-", row) for key, row in self._shown.items() if key not in rows]
        for key, row in rows.items():
            before = self._shown.get(key)
            if before != row:
                lines.append(("+" if before is None else "~", row))
        self._shown = rows
        if lines:
            now = time.strftime("%H:%M:%S")
            for line in columns([[now, mark, *row] for mark, row in lines]):
                say(line)
        self.remark(remark)


class _Tables(_Remarked, Generic[T]):
    """The whole table each time, with an empty line below it."""

    def __init__(self, form: Form[T]) -> None:
        super().__init__()
        self._form = form

    def show(self, things: Mapping[str, T], remark: str = "") -> None:
        if things:
            for line in columns([self._form.header, *map(self._form.row, things.values())]):
                say(line)
            say("")
        self.remark(remark)


class _Documents(_Remarked, Generic[T]):
    """All things as one JSON document after each change."""

    def __init__(self, form: Form[T]) -> None:
        super().__init__()
        self._form = form
        self._shown: dict[str, Sequence[str]] | None = None

    def show(self, things: Mapping[str, T], remark: str = "") -> None:
        rows = {key: self._form.changing(thing) for key, thing in things.items()}
        if rows != self._shown:
            self._shown = rows
            say(dump([self._form.to_json(thing) for thing in things.values()]))
        self.remark(remark)


class _Screen(Generic[T]):
    """The table, drawn over itself; the last one stays on the terminal at the end."""

    def __init__(self, form: Form[T]) -> None:
        from rich.live import Live

        from pymicro.cli.terminal import console_of

        self._form = form
        self._things: Sequence[T] | None = None
        self._remark = ""
        self._changed = ""
        self._loop = asyncio.get_running_loop()
        self._handlers: list[logging.Handler] = []
        self._console = console_of(sys.stdout)
        # On the other screen, which keeps the terminal's own lines, and which no resize rewraps.
        self._live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            get_renderable=self._drawing,
        )

    def show(self, things: Mapping[str, T], remark: str = "") -> None:
        self._things = list(things.values())
        self._remark = remark
        self._changed = time.strftime("%H:%M:%S")
        self._live.refresh()

    def remark(self, text: str) -> None:
        self._remark = text
        self._live.refresh()

    def enter(self) -> None:
        """Take the terminal."""
        self._live.start(refresh=True)
        self._loop.add_signal_handler(signal.SIGWINCH, self._live.refresh)
        self._loop.add_signal_handler(signal.SIGTSTP, self._suspend)
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._end, number)
        if sys.stderr.isatty():
            # A line of the log would appear in the middle of the table.
            root = logging.getLogger()
            self._handlers, root.handlers = root.handlers, [_Remarks(self)]

    def leave(self) -> None:
        """Restore the terminal."""
        for number in (signal.SIGWINCH, signal.SIGTSTP, signal.SIGTERM, signal.SIGHUP):
            self._loop.remove_signal_handler(number)
        if self._handlers:
            logging.getLogger().handlers = self._handlers
        self._live.stop()

    def print_last(self) -> None:
        """Leave the last state on the terminal."""
        for part in self._table():
            self._console.print(part)
        if self._remark:
            note(self._remark)

    def _suspend(self) -> None:
        # On Ctrl-Z, the shell needs its own screen in the meantime.
        self._live.stop()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._live.start(refresh=True)

    def _end(self, number: signal.Signals) -> None:
        with suppress(OSError):  # the terminal is gone, as SIGHUP says
            self.leave()  # first of all, this restores the signal's usual effect
        os.kill(os.getpid(), number)

    def _drawing(self) -> RenderableType:
        from rich.console import Group
        from rich.segment import Segment, SegmentLines
        from rich.text import Text

        from pymicro.cli.terminal import plain_text

        def lines(*parts: RenderableType) -> list[list[Segment]]:
            return self._console.render_lines(Group(*parts), pad=False)

        title = plain_text(self._form.title, "bold")
        title.append(f"  {self._changed or '…'}  (Ctrl-C ends)", "dim not bold")
        drawn = lines(title, Text(), *self._table())
        below = lines(Text(), plain_text(self._remark, "yellow")) if self._remark else []
        room = max(2, self._console.height - len(below))
        if len(drawn) > room:
            drawn = [*drawn[: room - 1], [Segment(f"… and {len(drawn) - room + 1} more")]]
        return SegmentLines([*drawn, *below], new_lines=True)

    def _table(self) -> list[RenderableType]:
        from pymicro.cli.terminal import table

        form, things = self._form, self._things or ()
        return table(
            form.header if things else (),
            [shown_cells(form.row(thing)) for thing in things],
            width=self._console.width,
            fixed=form.fixed,
            colours=[form.colour(thing) for thing in things],
        )


class _Remarks(logging.Handler):
    """Shows the log's last line below the table."""

    def __init__(self, screen: _Screen[Any]) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self._screen.remark(record.getMessage())
