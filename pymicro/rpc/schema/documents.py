"""Cuts running text into JSON documents, each as soon as it is complete."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Document", "Documents"]


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one JSON document and where it starts in its source.

    Attributes:
        text: The document; it may not be valid JSON.
        line: Line it starts on, from 1.
        column: Column it starts in, from 1.
    """

    text: str
    line: int = 1
    column: int = 1


# A byte order mark counts as space: editors put it at the start of files.
_SPACE = re.compile(r"[\s\ufeff]*")
_NO_BRACKET = re.compile(r'[^"{}\[\]]*')
_STRING = re.compile(r'(?:[^"\\]+|\\.)*', re.DOTALL)
_SCALAR = re.compile(r'[^\s\ufeff"{}\[\]]*')


class Documents:
    """Takes text in chunks of any size and returns the documents in it.

    Documents may follow each other on lines of their own, on one line, or each
    over several lines. An object, array or string is complete at its last
    character; a number or word ends where other text follows.
    """

    def __init__(self) -> None:
        self._text = ""  # from the start of the document being read
        self._at = 0  # where scanning continues in it
        self._depth = 0
        self._in_string = False
        self._line = 1
        self._column = 1

    def feed(self, text: str) -> list[Document]:
        """The documents that `text` completes."""
        self._text += text
        found = []
        while (end := self._find_end()) is not None:
            found.append(self._cut(end))
        return found

    def finish(self) -> list[Document]:
        """The rest at the end: a number or word, or a document cut short."""
        self._skip_space()
        return [self._cut(len(self._text))] if self._text else []

    def _find_end(self) -> int | None:
        """Where the document at the start of the text ends; None if that needs more text."""
        if self._at == 0:
            self._skip_space()
            if not self._text:
                return None
            if self._text[0] not in '{}[]"':
                end = _end(_SCALAR, self._text, 0)
                return end if end < len(self._text) else None
        while True:
            self._at = _end(_STRING if self._in_string else _NO_BRACKET, self._text, self._at)
            mark = self._text[self._at : self._at + 1]
            if mark in ("", "\\"):  # the end, or a backslash whose partner has not come yet
                return None
            self._at += 1
            if mark == '"':
                self._in_string = not self._in_string
            else:
                self._depth += 1 if mark in "{[" else -1
            # Below 0 means a stray closing bracket, a document that the parser will refuse.
            if self._depth <= 0 and not self._in_string:
                return self._at

    def _skip_space(self) -> None:
        if self._at == 0:
            self._drop(_end(_SPACE, self._text, 0))

    def _cut(self, end: int) -> Document:
        document = Document(self._text[:end], self._line, self._column)
        self._drop(end)
        self._at = self._depth = 0
        self._in_string = False
        return document

    def _drop(self, end: int) -> None:
        dropped, self._text = self._text[:end], self._text[end:]
        lines = dropped.count("\n")
        self._line += lines
        self._column = len(dropped) - dropped.rfind("\n") if lines else self._column + len(dropped)


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return match.end() if match else start
