"""A page of a list, object by object.

`json.loads` blocks the event loop for 100 ms and more on a page of 500 large pods, and for a
second on one big list. This module parses one object at a time, so that the caller can let
the loop turn between two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from typing import Any

from pymicro.base.printable import excerpt

__all__ = ["Page"]

_decode = json.JSONDecoder().raw_decode
_space = re.compile(r"[ \t\n\r]*").match


class Page:
    """The JSON of a list: `{"metadata": {…}, "items": […]}`, its keys in any order.

    Once `objects` has ended, `metadata` and everything else outside the items is complete.

    Args:
        body: The bytes as they came.

    Raises:
        ValueError: It is no UTF-8.
    """

    def __init__(self, body: bytes) -> None:
        self._text = body.decode()
        self._rest: dict[str, Any] = {}

    @property
    def resource_version(self) -> str:
        """The version of the list; empty if it says none."""
        return self._metadata("resourceVersion")

    @property
    def proceed(self) -> str:
        """What to pass as `continue` for the next page; empty after the last one."""
        return self._metadata("continue")

    def _metadata(self, key: str) -> str:
        metadata = self._rest.get("metadata")
        value = metadata.get(key) if isinstance(metadata, dict) else None
        return value if isinstance(value, str) else ""

    def objects(self) -> Iterator[Any]:
        """The items, one after the other. Read them to the end, once.

        Raises:
            ValueError: It is no JSON, or no list.
        """
        text = self._text
        at = self._expect("{", 0)
        if text[at : at + 1] == "}":
            at += 1
        else:
            while True:
                key, at = self._value(at)
                at = self._expect(":", at)
                if key == "items" and text[at : at + 1] == "[":
                    at = yield from self._items(at)
                else:
                    self._rest[key], at = self._value(at)
                if text[at : at + 1] != ",":
                    break
                at = self._skip(at + 1)
            at = self._expect("}", at)
        if self._skip(at) != len(text):
            raise ValueError(f"something follows the list at {at}")

    def _items(self, at: int) -> Generator[Any, None, int]:
        """The elements of the array at `at`; returns where it ends."""
        at = self._skip(at + 1)
        if self._text[at : at + 1] == "]":
            return self._skip(at + 1)
        while True:
            item, at = self._value(at)
            yield item
            if self._text[at : at + 1] != ",":
                return self._expect("]", at)
            at = self._skip(at + 1)

    def _value(self, at: int) -> tuple[Any, int]:
        """The value at `at`, and where the next sign after it is."""
        value, end = _decode(self._text, at)
        return value, self._skip(end)

    def _expect(self, sign: str, at: int) -> int:
        at = self._skip(at)
        if self._text[at : at + 1] != sign:
            raise ValueError(f"{excerpt(sign)} expected at {at}")
        return self._skip(at + 1)

    def _skip(self, at: int) -> int:
        found = _space(self._text, at)
        assert found is not None
        return found.end()
