"""Foreign text on its way to a terminal or a log."""

from __future__ import annotations

import re
import shlex

__all__ = ["as_argument", "escaped_json", "excerpt", "printable"]

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


def printable(text: str) -> str:
    """`text` with what nobody sees escaped; tabs and newlines stay."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def excerpt(value: object) -> str:
    """A foreign value as Python writes it, for a message: the beginning, if it is long."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


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
