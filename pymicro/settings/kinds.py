"""The kinds of values: each says how to read and show the values of a setting."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pymicro.base.durations import format_duration, parse_duration
from pymicro.base.printable import excerpt, without_user
from pymicro.base.suggest import did_you_mean

__all__ = [
    "ADDRESSES",
    "COUNT",
    "DURATION",
    "LIST",
    "PAIRS",
    "POSITIVE",
    "SECRET",
    "SIZE",
    "TEXT",
    "Kind",
    "one_of",
    "optional",
    "renamed",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """How to read and show a setting's value.

    Attributes:
        metavar: Its placeholder in help texts.
        parse: Makes the value from a flag's or variable's text; raises ValueError.
        accept: Checks a value given in code; raises ValueError or TypeError.
        show: Turns the value back into text, for `--print-config`.
        repeated: Whether the flag may be given several times (values are joined).
    """

    metavar: str
    parse: Callable[[str], Any]
    accept: Callable[[Any], Any]
    show: Callable[[Any], str] = str
    repeated: bool = False


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{excerpt(value)} is no text")
    return value


def _secret(value: Any) -> str:
    if not isinstance(value, str):  # a password of digits without quotes, say, in a file
        raise TypeError(f"it is no text, but of type {type(value).__name__}")
    return value


def _number(low: int) -> Callable[[Any], int]:
    def accept(value: Any) -> int:
        if isinstance(value, str):
            try:
                value = int(value.strip())
            except ValueError:
                raise ValueError(f"{excerpt(value)} is no whole number") from None
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{excerpt(value)} is no whole number")
        if value < low:
            raise ValueError(f"{excerpt(value)} is less than {low}")
        return value

    return accept


def _seconds(value: Any) -> float:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{excerpt(value)} is no number of seconds")
    return parse_duration(repr(value))


def _list(value: Any) -> tuple[str, ...]:
    if not isinstance(value, Iterable):
        raise TypeError(f"{excerpt(value)} is no list of texts")
    parts: Iterable[Any] = value.split(",") if isinstance(value, str) else value
    return tuple(part for part in (_text(item).strip() for item in parts) if part)


def _pairs(value: Any) -> Mapping[str, str]:
    if isinstance(value, Mapping):
        return {_text(key): _text(item) for key, item in value.items()}
    pairs: dict[str, str] = {}
    for part in _list(value):
        key, equals, item = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"{excerpt(part)} is not of the form key=value")
        pairs[key.strip()] = item.strip()
    return pairs


_SIZE = re.compile(r"(\d+)\s*([KMG]i?B?|B)?", re.IGNORECASE | re.ASCII)
_SIZES = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _size(value: Any) -> int:
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{excerpt(value)} is no size (like 4MiB, 65536)")
        value = int(match[1]) * _SIZES[(match[2] or "")[:1].upper()]
    number = _number(1)(value)
    if number >= 1 << 31:  # grpc-core keeps message lengths in a C int
        raise ValueError(f"{excerpt(number)} is more than grpc can handle (2 GiB - 1)")
    return number


def _show_size(value: int) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value % scale == 0:
            return f"{value // scale}{unit}"
    return str(value)


def one_of(*choices: str, **aliases: str) -> Kind:
    """One of these words; `aliases` are the words of others for some."""

    def accept(value: Any) -> str:
        if isinstance(value, bool) and "off" in choices:  # as files write it
            value = "on" if value else "off"
        text = _text(value).strip().lower()
        text = aliases.get(text, text)
        if text not in choices:
            hint = did_you_mean(text, list(choices))
            raise ValueError(f"{excerpt(value)} is none of {', '.join(choices)}{hint}")
        return text

    return Kind("|".join(choices), accept, accept)


def renamed(**aliases: str) -> Kind:
    """A plug-in's name; go-micro has other words for some."""

    def accept(value: Any) -> str:
        text = _text(value).strip()
        return aliases.get(text, text)

    return Kind("TEXT", accept, accept)


TEXT = Kind("TEXT", str.strip, _text)
# Not stripped, since a password may begin with a space. Never shown.
SECRET = Kind("TEXT", str, _secret, lambda value: "(set)" if value else "")
COUNT = Kind("N", _number(0), _number(0))
POSITIVE = Kind("N", _number(1), _number(1))
DURATION = Kind("DURATION", _seconds, _seconds, format_duration)
SIZE = Kind("SIZE", _size, _size, _show_size)
# Somebody may write a user and a password into one.
ADDRESSES = Kind("A,B", _list, _list, lambda value: ",".join(map(without_user, value)), repeated=True)
LIST = Kind("A,B", _list, _list, ",".join, repeated=True)
PAIRS = Kind(
    "KEY=VALUE", _pairs, _pairs, lambda value: ",".join(f"{k}={v}" for k, v in value.items()), repeated=True
)


def optional(kind: Kind) -> Kind:
    """A value of this kind, or None."""

    def show(value: Any) -> str:
        return "" if value is None else kind.show(value)

    def accept(value: Any) -> Any:
        return None if value is None else kind.accept(value)

    return Kind(kind.metavar, kind.parse, accept, show, kind.repeated)
