"""JSON written piece by piece: of ten thousand nodes at once, it would hold up calls."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any

from pymicro.base.printable import escaped_json
from pymicro.telemetry.admin import WritePage

__all__ = ["Rows", "json_page"]


class Rows:
    """An array, or an object, whose parts are made when they are written.

    Args:
        parts: The array's elements; or the object's keys, each with its value.
        keyed: Whether it is an object.
    """

    def __init__(self, parts: Iterable[Any], *, keyed: bool = False) -> None:
        self.parts = parts
        self.keyed = keyed


def json_page(make: Callable[[], Mapping[str, Any]]) -> WritePage:
    """A page with one JSON object.

    Args:
        make: Makes the object, anew for each reading. Values may be `Rows`, at any depth of `Rows`
            and mappings.
    """

    def write(accept: str) -> tuple[str, AsyncIterator[bytes]]:
        return "application/json", _pieces(make)

    return write


async def _pieces(make: Callable[[], Mapping[str, Any]]) -> AsyncIterator[bytes]:
    for piece in _written(make()):
        yield piece.encode()
    yield b"\n"


def _written(value: Any) -> Iterator[str]:
    """The document of `value`, in pieces."""
    if isinstance(value, Rows):
        yield "{" if value.keyed else "["
        comma = ""
        for part in value.parts:
            if value.keyed:
                key, part = part
                yield f"{comma}\n{_dumped(str(key))}: "
            else:
                yield f"{comma}\n"
            yield from _written(part)
            comma = ","
        yield "}" if value.keyed else "]"
    elif isinstance(value, Mapping) and any(isinstance(part, Rows | Mapping) for part in value.values()):
        yield from _written(Rows(value.items(), keyed=True))
    else:
        yield _dumped(value)


def _dumped(value: Any) -> str:
    # What a peer wrote must not reach a terminal as it is, when somebody reads this with curl.
    return escaped_json(json.dumps(value, ensure_ascii=False))
