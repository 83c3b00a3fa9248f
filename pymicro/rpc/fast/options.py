"""grpc's channel arguments as transport `fast` reads them, on either end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt

__all__ = ["OptionReader"]


class OptionReader:
    """Reads arguments one by one, and refuses those that nobody has read.

    Args:
        given: The arguments, by name.
        end: `channel` or `server`, for messages.
        known: Names that mean nothing here, and are no mistake.
    """

    def __init__(self, given: Mapping[str, Any], end: str, known: Iterable[str] = ()) -> None:
        self._given = given
        self._end = end
        self._read = set(known)

    def number(self, name: str, default: int) -> int:
        """A whole number.

        Raises:
            ConfigError: It is none.
        """
        self._read.add(name)
        value = self._given.get(name, default)
        if not isinstance(value, int):
            raise ConfigError(
                f"grpc {self._end} option {excerpt(name)} is a number, and not {excerpt(value)}"
            )
        return value

    def text(self, name: str, default: str) -> str:
        """A text, which may be given as bytes."""
        self._read.add(name)
        value = self._given.get(name, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def refuse_others(self) -> None:
        """Refuse what was given and not read.

        Raises:
            ConfigError: Names it.
        """
        others = sorted(set(self._given) - self._read)
        if others:
            raise ConfigError(
                f"transport fast does not know the grpc {self._end} option{'s' if len(others) > 1 else ''} "
                f"{', '.join(others)}: leave out what only grpc-core knows, or set transport to grpc"
            )
