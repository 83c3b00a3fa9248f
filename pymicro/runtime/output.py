"""The log of several processes as one, each line with the name of its process in front."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Final, Self

from pymicro.base.printable import printable
from pymicro.runtime.lines import RESET, PrintedLines, harmless

__all__ = ["MergedLog"]

# Seconds after which the beginning of a line is shown that has no end yet.
_PAUSE: Final = 1.0
# Bytes that wait to be written; while there are more, no process is read from, so it waits.
_BACKLOG: Final = 1 << 20
_CHUNK: Final = 1 << 16
# Bytes of one line that are shown: of a terminal's screen a few lines, of a pipe much.
_LONGEST_SHOWN: Final = 2000
_LONGEST_PIPED: Final = 1 << 16
# Seconds without progress after which the last lines are given up at the end.
_STALLED: Final = 1.0

# Told apart on light and on dark; red is for errors.
_NAME_COLOURS: Final = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")
_OWN: Final = "1"  # bold


class MergedLog:
    """Where the lines of all processes go, written by a thread: a terminal that is held must hold nobody.

    Args:
        descriptor: Of a terminal, a pipe or a file.
        labels: Everybody who will have lines; the column of names is as wide as the widest.
        colours: A number for each label, from which its colour is made; None for no colour at all.
        encoding: Of the lines.
        terminal: Whether a person looks on; then very long lines are shortened earlier.

    Attributes:
        gone: Called once, in the event loop, when nobody reads any more.
    """

    def __init__(
        self,
        descriptor: int,
        labels: Collection[str],
        *,
        colours: dict[str, int] | None = None,
        encoding: str = "utf-8",
        terminal: bool = False,
    ) -> None:
        self._descriptor = descriptor
        self._width = max(map(len, labels), default=0)
        self._colours = colours
        self._encoding = encoding
        self._terminal = terminal
        self._longest = _LONGEST_SHOWN if terminal else _LONGEST_PIPED
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._size = 0
        self._written = 0
        self._closed = False
        self._lost = False
        self._room = asyncio.Event()
        self._room.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._write_all, name="merged log", daemon=True)
        self.gone: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait until all is written, as long as it gets on."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        written = -1
        while self._thread.is_alive() and written != self._written:
            written = self._written
            await asyncio.to_thread(self._thread.join, _STALLED)

    def say(self, label: str, text: str) -> None:
        """Write a line of our own."""
        line = self._head(label, None) + printable(text)
        if self._colours is not None:
            line = f"\x1b[{_OWN}m{line}{RESET}"
        # It may answer a Ctrl-C, of which a terminal has written ^C here.
        start = "\r" if self._terminal else ""
        self._put([start + line])

    async def follow(self, reader: asyncio.StreamReader, label: str) -> None:
        """Write what a process prints, until it closes its end."""
        number = None if self._colours is None else self._colours.get(label, 0)
        style = None if number is None else _NAME_COLOURS[number % len(_NAME_COLOURS)]
        head = self._head(label, style)
        lines = PrintedLines(self._longest)
        more = True
        while more:
            await self._room.wait()
            try:
                async with asyncio.timeout(_PAUSE if lines.begun else None):
                    data = await reader.read(_CHUNK)
            except TimeoutError:
                done = [lines.take()]
            else:
                more = bool(data)
                done = lines.feed(data)
                if lines.begun and not more:
                    done.append(lines.take())
            self._put([head + harmless(line, coloured=style is not None) for line in done])

    def _head(self, label: str, style: str | None) -> str:
        name = f"{label:<{self._width}} | "
        return name if style is None else f"\x1b[{style}m{name}{RESET}"

    def _put(self, lines: Sequence[str]) -> None:
        text = "".join(f"{line.rstrip(' ')}\n" for line in lines)
        data = text.encode(self._encoding, "backslashreplace")
        with self._changed:
            if self._lost:
                return
            self._waiting.append(data)
            self._size += len(data)
            self._changed.notify()
            if self._size > _BACKLOG:
                self._room.clear()

    # In the thread

    def _write_all(self) -> None:
        assert self._loop is not None
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                data = memoryview(b"".join(self._waiting))
                self._waiting.clear()
                self._size = 0
            self._tell(self._room.set)
            try:
                while data:
                    data = data[self._write(data) :]
            except OSError:
                with self._changed:
                    self._lost = True
                    self._waiting.clear()
                self._tell(self._room.set)
                self._tell(lambda: self.gone())
                return

    def _write(self, data: memoryview) -> int:
        try:
            count = os.write(self._descriptor, data[:_CHUNK])
        except BlockingIOError:  # another program has changed the terminal that it shares with us
            select.select((), (self._descriptor,), ())
            return 0
        self._written += count
        return count

    def _tell(self, what: Callable[[], object]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: the last lines were given up
            self._loop.call_soon_threadsafe(what)
