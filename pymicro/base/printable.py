"""Foreign text on its way to a message, a terminal or a log.

What a message quotes was written by somebody else: in a file, a variable, a record, an answer. So no
message has `{value!r}`, which may be a page long: `excerpt` quotes, `shortened` does not, `listed` is
for names in a row. tests/base/test_printable.py looks for the others.
"""

from __future__ import annotations

import re
import reprlib
import shlex
from collections.abc import Collection
from itertools import islice

__all__ = ["as_argument", "escaped_json", "excerpt", "listed", "printable", "shortened", "without_user"]

# What a terminal obeys (C0 without tab and newline, DEL, C1), what turns the direction of text
# around (Unicode TR 36: "bidirectional text spoofing"), what has no width, what ends a line,
# and halves of characters, which no encoding can carry.
_UNSEEN = (
    "\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U00013430-\U0001345f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_CONTROL = re.compile(f"[\x00-\x08\x0b-\x1f{_UNSEEN}]")
_IN_JSON = re.compile(f"[{_UNSEEN}]")
# Characters of a value that a message shows.
_MOST_SHOWN = 200
# Writes a few of many items, and a few of many levels; a peer's document has any number of them.
_SOME = reprlib.Repr()
_SOME.maxlist = _SOME.maxtuple = _SOME.maxdict = _SOME.maxset = 20
_SOME.maxlevel = 4
_SOME.maxstring = _SOME.maxother = _MOST_SHOWN


def printable(text: str) -> str:
    """`text` with what nobody sees escaped; tabs and newlines stay."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def excerpt(value: object, most: int = _MOST_SHOWN) -> str:
    """A foreign value as Python writes it, for a message: the beginning, if it is long.

    It costs little, whatever the value is, and never raises: some numbers are too long to be written.

    Args:
        most: Characters that are shown.
    """
    try:
        if isinstance(value, str | bytes):
            text = repr(value[: most + 1])
        else:
            text = _SOME.repr(value) if isinstance(value, list | tuple | dict | set) else repr(value)
    except Exception:
        text = f"something of type {type(value).__name__} that cannot be shown"
    return shortened(text, most)


def shortened(text: str, most: int = _MOST_SHOWN) -> str:
    """Foreign text for a message, without quotation marks: the beginning, if it is long."""
    return text if len(text) <= most else f"{text[:most]}…"


def listed(names: Collection[str], most: int = 20) -> str:
    """Foreign names in a row, for a message: `a, b and 3 more`; empty if there are none."""
    shown = ", ".join(shortened(name) for name in islice(names, most))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def without_user(address: str) -> str:
    """An address for a message, or for a list of settings: without the user and password that it may have.

    A path is shown as it is.
    """
    place, at, host = address.rpartition("@")
    scheme, slashes, _ = place.partition("://")
    if not at or ("/" in place and not slashes):
        return address
    return f"{scheme}{slashes}…@{host}" if slashes else f"…@{host}"


def escaped_json(document: str) -> str:
    """A JSON document with what nobody sees escaped; it means the same."""

    def escape(match: re.Match[str]) -> str:
        units = match[0].encode("utf-16-be", errors="surrogatepass")
        return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))

    return _IN_JSON.sub(escape, document)


def as_argument(text: str) -> str:
    """`text` as one argument of a command to paste into a shell; empty if it had better not be pasted.

    What is not printable can be quoted, but nobody sees then what the command does.
    """
    return shlex.quote(text) if text.isprintable() else ""
