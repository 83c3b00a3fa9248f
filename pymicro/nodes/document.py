"""Parts of a JSON document that anybody may have written: each is checked, and bounded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pymicro.base.printable import excerpt
from pymicro.base.recent import Recent
from pymicro.nodes.node import NO_METADATA

__all__ = ["as_object", "load_text", "read_list", "read_pairs", "read_text", "share_pairs"]

MOST_PAIRS = 128
LONGEST_PAIRS = 16 << 10
# The longest mapping that is shared.
_LONGEST_SHARED = 2 << 10


def load_text(text: str | bytes) -> Mapping[str, Any]:
    """The JSON object in `text`.

    Raises:
        ValueError: The text is no object. (RecursionError if it is nested too deep.)
    """
    if not isinstance(text, str):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    document = _DECODER.decode(text)
    if not isinstance(document, dict):
        raise ValueError(f"it is {_kind(document)} and no object")
    return document


class _NotWhole(float):
    """Any number with a fraction or an exponent: nothing reads one, and converting thousands takes long."""

    def __repr__(self) -> str:
        return "a number that is not whole"


_NOT_WHOLE = _NotWhole(math.nan)
_DECODER = json.JSONDecoder(parse_float=lambda _: _NOT_WHOLE)


def _kind(found: Any) -> str:
    if found is None:
        return "null"
    return "float" if found is _NOT_WHOLE else type(found).__name__


def as_object(found: Any) -> Mapping[str, Any]:
    """What was found, if it is an object.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(found, dict):
        raise ValueError(f"{_kind(found)} found where an object belongs")
    return found


def _is_text(found: Any) -> bool:
    if not isinstance(found, str):
        return False
    if not found.isascii():
        try:
            found.encode()
        except UnicodeEncodeError:
            # JSON can spell half a character, which would fail far from here.
            return False
    return True


def _checked(found: Any, what: str) -> str:
    if not _is_text(found):
        kind = f"{_kind(found)} and no text" if not isinstance(found, str) else "no valid unicode"
        raise ValueError(f"{what} is {kind}")
    return str(found)


def read_text(
    document: Mapping[str, Any], key: str, *, empty: bool = False, longest: int | None = None
) -> str:
    """The text at `key`; missing and null mean the empty text, if that is allowed."""
    found = document.get(key)
    if empty and found is None:
        return ""
    text = _checked(found, excerpt(key))
    if not text and not empty:
        raise ValueError(f"{excerpt(key)} is empty")
    if longest is not None and len(text) > longest:
        raise ValueError(f"{excerpt(key)} has {len(text)} characters, and {longest} are the most")
    return text


def read_list(document: Mapping[str, Any], key: str) -> list[Any]:
    """The list at `key`; missing and null mean the empty list."""
    found = document.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise ValueError(f"{excerpt(key)} is {_kind(found)} and no list")
    return found


def read_pairs(document: Mapping[str, Any], key: str, *, shared: bool = False) -> Mapping[str, str]:
    """The text pairs at `key`; missing, null and {} mean no pairs.

    Args:
        shared: Whether to bound the pairs, and to share one mapping among equal ones.
    """
    found = document.get(key)
    if found is None or found == {}:
        return NO_METADATA
    pairs = as_object(found)
    for name, value in pairs.items():
        if not _is_text(name) or not _is_text(value):
            # What it is called costs more than the look at it.
            _checked(name, f"a key of {excerpt(key)}")
            _checked(value, f"{excerpt(key)} at {excerpt(name)}")
    return share_pairs(pairs) if shared else pairs


def share_pairs(pairs: Mapping[str, str]) -> Mapping[str, str]:
    """One mapping for the equal pairs of thousands of nodes.

    Raises:
        ValueError: The pairs are too many or too long.
    """
    if len(pairs) > MOST_PAIRS:
        raise ValueError(f"the metadata has {len(pairs)} entries, and {MOST_PAIRS} are the most")
    size = sum(map(len, pairs)) + sum(map(len, pairs.values()))
    if size > LONGEST_PAIRS:
        raise ValueError(f"the metadata has more than {LONGEST_PAIRS} characters")
    if size > _LONGEST_SHARED:
        return pairs
    key = tuple(pairs.items())
    return _mappings.get(key) or _mappings.put(key, pairs, size)


# Characters are the cost.
_mappings: Recent[tuple[tuple[str, str], ...], Mapping[str, str]] = Recent(512 << 10)
