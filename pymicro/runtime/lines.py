"""What a program prints, as lines that are harmless to a terminal."""

from __future__ import annotations

import re
from typing import Final

from pymicro.base.printable import printable

__all__ = ["RESET", "PrintedLines", "harmless"]

RESET: Final = "\x1b[0m"

# What programs write to colour their text, and which of it is passed on to a terminal: not what
# hides text, blinks, or sets the background, in which the terminal's own colours may vanish.
_STYLE = re.compile(r"\x1b\[([0-9;]*)m")
_HARMLESS = re.compile(r"(?:(?:[0-4]|2[2-4]|3[0-79]|9[0-7]|38;5;\d{1,3}|38;2(?:;\d{1,3}){3})(?:;|$))*")


class PrintedLines:
    """Cuts into lines what comes in pieces, and keeps of a line no more than is shown.

    Args:
        longest: Bytes of a line that are shown.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._line = bytearray()
        self._more = 0

    @property
    def begun(self) -> bool:
        """Whether a line has begun that has no end yet."""
        return bool(self._line or self._more)

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that end in `data`."""
        done = []
        first, *rest = data.split(b"\n")
        self._add(first)
        for piece in rest:
            done.append(self.take())
            self._add(piece)
        return done

    def take(self) -> bytes:
        """The line as far as it has come; it ends here."""
        line, more = bytes(self._line), self._more
        self._line.clear()
        self._more = 0
        if not more:
            return line
        whole = line.rstrip(bytes(range(0x80, 0xC0)))  # a character must not be cut in two
        if whole and whole[-1] >= 0xC0:
            whole = whole[:-1]
        return whole + f"… (and {len(line) - len(whole) + more} bytes more)".encode()

    def _add(self, piece: bytes) -> None:
        fits = piece[: self._longest - len(self._line)]
        self._line += fits
        self._more += len(piece) - len(fits)


def harmless(line: bytes, *, coloured: bool) -> str:
    """A program's line for a terminal or a pipe.

    Args:
        coloured: Whether its colours are kept; the line ends without any.
    """
    text = line.decode("utf-8", "backslashreplace").rstrip("\r")
    text = text.rpartition("\r")[2]  # a bar of progress: of what it wrote over itself, the last
    if "\x1b" not in text:
        return printable(text)
    pieces = _STYLE.split(text)  # text, style, text, …
    styled = False
    for at, piece in enumerate(pieces):
        if at % 2 == 0:
            pieces[at] = printable(piece)
        elif coloured and _HARMLESS.fullmatch(piece):
            pieces[at] = f"\x1b[{piece}m"
            styled = True
        else:
            pieces[at] = ""
    return "".join(pieces) + (RESET if styled else "")
