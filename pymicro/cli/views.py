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
from typing import Any, Generic, Protocol, TypeVar

from pymicro.cli.listing import columns
from pymicro.cli.report import coloured, dump, note, on_terminal, printable, say

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
    """

    title: str
    header: Sequence[str]
    row: Callable[[T], Sequence[str]]
    to_json: Callable[[T], Any]
    change: Callable[[T], Sequence[str]] | None = None
    colour: Callable[[T], str] = lambda thing: ""

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


# Enter the other screen (which keeps the terminal's own lines, and which no resize rewraps), cut
# long lines off instead of wrapping them, hide the cursor; and back.
_ENTER = "\x1b[?1049h\x1b[?7l\x1b[?25l"
_LEAVE = "\x1b[?25h\x1b[?7h\x1b[?1049l"
# Terminals that know these two show everything between them at once, without flicker.
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
_HOME, _TO_END_OF_LINE, _TO_END = "\x1b[H", "\x1b[K", "\x1b[J"


class _Screen(Generic[T]):
    """The table, drawn over itself; the last one stays on the terminal at the end."""

    def __init__(self, form: Form[T]) -> None:
        self._form = form
        self._things: Sequence[T] | None = None
        self._remark = ""
        self._changed = ""
        self._loop = asyncio.get_running_loop()
        self._handlers: list[logging.Handler] = []

    def show(self, things: Mapping[str, T], remark: str = "") -> None:
        self._things = list(things.values())
        self._remark = remark
        self._changed = time.strftime("%H:%M:%S")
        self._draw()

    def remark(self, text: str) -> None:
        self._remark = text
        self._draw()

    def enter(self) -> None:
        """Take the terminal."""
        self._write(_ENTER)
        self._loop.add_signal_handler(signal.SIGWINCH, self._draw)
        self._loop.add_signal_handler(signal.SIGTSTP, self._suspend)
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._end, number)
        if sys.stderr.isatty():
            # A line of the log would appear in the middle of the table.
            root = logging.getLogger()
            self._handlers, root.handlers = root.handlers, [_Remarks(self)]
        self._draw()

    def leave(self) -> None:
        """Restore the terminal."""
        for number in (signal.SIGWINCH, signal.SIGTSTP, signal.SIGTERM, signal.SIGHUP):
            self._loop.remove_signal_handler(number)
        if self._handlers:
            logging.getLogger().handlers = self._handlers
        self._write(_LEAVE)

    def print_last(self) -> None:
        """Leave the last state on the terminal."""
        if self._things:
            for line in self._table():
                say(line)
        if self._remark:
            note(self._remark)

    def _suspend(self) -> None:
        # On Ctrl-Z, the shell needs its own screen in the meantime.
        self._write(_LEAVE)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._write(_ENTER)
        self._draw()

    def _end(self, number: signal.Signals) -> None:
        with suppress(OSError):  # the terminal is gone, as SIGHUP says
            self.leave()  # first of all, this restores the signal's usual effect
        os.kill(os.getpid(), number)

    def _draw(self) -> None:
        try:
            height = os.get_terminal_size(sys.stdout.fileno()).lines
        except OSError:
            height = 0
        lines = [f"{self._form.title}  {self._changed or '…'}  (Ctrl-C ends)", ""]
        if self._things:
            lines += self._table()
        below = ["", *printable(self._remark).split("\n")] if self._remark else []
        room = max(2, height - len(below))
        if height and len(lines) > room:
            lines = [*lines[: room - 1], f"… and {len(lines) - room + 1} more"]
        body = f"{_TO_END_OF_LINE}\n".join([*lines, *below])
        self._write(f"{_BEGIN}{_HOME}{body}{_TO_END}{_END}")

    def _table(self) -> list[str]:
        things = self._things or ()
        head, *rows = columns([self._form.header, *(self._form.row(thing) for thing in things)])
        colours = [self._form.colour(thing) for thing in things]
        return [head, *(coloured(row, colour) for row, colour in zip(rows, colours, strict=True))]

    def _write(self, text: str) -> None:
        encoding = sys.stdout.encoding or "ascii"
        # A character that the terminal cannot show must not end the view.
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()


class _Remarks(logging.Handler):
    """Shows the log's last line below the table."""

    def __init__(self, screen: _Screen[Any]) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self._screen.remark(record.getMessage())
