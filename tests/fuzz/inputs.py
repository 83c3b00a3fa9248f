"""What strangers send: documents that are almost right, and bytes that are not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

__all__ = ["TEXTS", "VALUES", "altered", "altered_bytes", "altered_text", "as_json"]

# What has tripped somebody before: halves of characters, what turns text around, numbers that are
# too long for int(), paths, addresses of other things.
_ODD_TEXTS = (
    "", " ", "\0", "a\0b", "\n", "a\nb", "\x1b[2J", "\u202egnp", "\ud800", "\U0010ffff", "ß" * 70, "x" * 600,
    "9" * 5000, "-1", "0", "٣", "1e999", "NaN", "::1", "[::1]:80", "[", "]", ":", "10.0.0.1:80",
    "10.0.0.1:99999", "unix:80", "a,b:80", "%", "..", "/", "a/b", "{}", "null", "true", "${x}", "%s", "_",
    "a.b.c", "=",
)  # fmt: skip
_ODD_NUMBERS = (
    0, 1, -1, 80, 65535, 65536, 1 << 31, 1 << 63, 1 << 64, -(1 << 63), 10**400, 0.5, -0.0, 1e308,
    float("inf"), float("nan"),
)  # fmt: skip

TEXTS = st.sampled_from(_ODD_TEXTS) | st.text(max_size=30)
_LEAVES = st.none() | st.booleans() | st.sampled_from(_ODD_NUMBERS) | st.integers() | TEXTS
VALUES: st.SearchStrategy[Any] = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every place in a document, as what holds it and the key or index."""
    found: list[tuple[Any, Any]] = []
    rest = [document]
    while rest:
        one = rest.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            found.append((one, key))
            rest.append(one[key])
    return found


@st.composite
def altered(draw: Callable[[Any], Any], *documents: Any) -> Any:
    """One of `documents`, with up to four changes at places of it."""
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(0, 4))):
        places = _places(document)
        if not places:
            return draw(VALUES)
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        how = draw(st.sampled_from(("value", "value", "text", "gone", "twice", "nested", "renamed")))
        if how == "value":
            holder[key] = draw(VALUES)
        elif how == "text":
            holder[key] = draw(TEXTS)
        elif how == "gone":
            del holder[key]
        elif how == "nested":
            holder[key] = {"": [holder[key]]}
        elif how == "renamed" and isinstance(holder, dict):
            holder[draw(TEXTS)] = holder.pop(key)
        elif isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
    return document


@st.composite
def altered_text(draw: Callable[[Any], Any], texts: st.SearchStrategy[str]) -> str:
    """A text that is mostly as it was, or cut, or with something put in, or with a part many times."""
    text: str = draw(texts)
    how = draw(st.sampled_from(("whole", "whole", "whole", "cut", "put", "many")))
    at = draw(st.integers(0, len(text)))
    if how == "cut":
        return text[:at]
    if how == "put":
        return text[:at] + draw(TEXTS) + text[at:]
    if how == "many":
        end = min(len(text), at + draw(st.integers(1, 8)))
        return text[:at] + text[at:end] * draw(st.sampled_from((2, 50, 3000))) + text[end:]
    return text


@st.composite
def altered_bytes(draw: Callable[[Any], Any], *seeds: bytes) -> bytes:
    """One of `seeds` with bytes changed, cut, put in, or many times; or no seed at all."""
    if draw(st.integers(0, 9)) == 0:
        found: bytes = draw(st.binary(max_size=200))
        return found
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(("change", "change", "cut", "put", "many")))
        if how == "change":
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif how == "cut":
            del data[at : at + draw(st.integers(1, 20))]
        elif how == "put":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            end = at + draw(st.integers(1, 16))
            data[at:at] = bytes(data[at:end]) * draw(st.sampled_from((1, 20, 500)))
    return bytes(data)


def as_json(documents: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    """Documents as text, now and then broken."""

    def write(document: Any) -> str:
        return json.dumps(document, separators=(",", ":"))

    return altered_text(documents.map(write))
