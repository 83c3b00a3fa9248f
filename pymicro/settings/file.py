"""The file with settings, `pymicro.toml`: which one is read, what is in it, and in which lines."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt, shortened
from pymicro.base.suggest import did_you_mean

__all__ = ["FILE_NAME", "OFF", "SERVICE_VARIABLE", "SettingsFile", "file_here", "read_file"]

# Looked for in the working folder, and in no folder above it: a file further up would steer
# programs whose author has never seen it.
FILE_NAME: Final = "pymicro.toml"
# Instead of a file's name: no file is read.
OFF: Final = "off"
# Says under which name the file knows this process. `pymicro up` sets it for what it starts.
SERVICE_VARIABLE: Final = "MICRO_CONFIG_SERVICE"

_TABLES = ("settings", "services")
_LARGEST = 1 << 20
# Lines of one value; of a longer one the lines after it are not known.
_LONGEST_VALUE = 200
_PLACE = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """What a file says, not yet understood.

    Attributes:
        path: The file, absolute.
        name: The file as messages call it.
        tables: Its content.
        lines: The line in which each table and key begins, counted from 1, as far as that is known.
    """

    path: Path
    name: str
    tables: Mapping[str, Any]
    lines: Mapping[Key, int]

    def place(self, *key: str) -> str:
        """`pymicro.toml:4`, where a key stands."""
        line = self.lines.get(key)
        return self.name if line is None else f"{self.name}:{line}"

    def table(self, *key: str) -> Mapping[str, Any]:
        """The table of this key; empty if there is none.

        Raises:
            ConfigError: It is no table.
        """
        found: Any = self.tables
        for depth, part in enumerate(key, 1):
            found = found.get(part, {})
            if not isinstance(found, dict):
                raise ConfigError(f"{self.place(*key[:depth])}: {excerpt(part)} is no table")
        assert isinstance(found, dict)
        return found

    def settings(self, service: str = "") -> dict[str, tuple[Any, str]]:
        """The value and the place of each setting, by a name that may be none of a setting.

        Args:
            service: Also what is for this service alone, which comes first; empty for none.

        Raises:
            ConfigError: What should be a table is none.
        """
        keys: list[Key] = [("settings",)]
        if service and service in self.table("services"):
            keys.append(("services", service, "settings"))
        return {
            name: (value, self.place(*key, name)) for key in keys for name, value in self.table(*key).items()
        }


def read_file(path: Path) -> SettingsFile:
    """Read a file that somebody named.

    Raises:
        ConfigError: It cannot be read, is no TOML, or has a table that nobody would look at.
    """
    found = _read(path, trusted=True)
    assert isinstance(found, SettingsFile)
    return found


def file_here() -> SettingsFile | str | None:
    """The `pymicro.toml` of the working folder; None if it has none.

    A text says why there is one that is not read: whoever may write it could send this
    process's calls wherever they like. Many programs run in folders that others may write.

    Raises:
        ConfigError: It cannot be read, is no TOML, or has a table that nobody would look at.
    """
    path = Path(FILE_NAME)
    return _read(path, trusted=False) if os.path.lexists(path) else None


def _read(path: Path, *, trusted: bool) -> SettingsFile | str:
    shown = _shown(path)
    refusal = f"{shown} is not read, because {{}}; MICRO_CONFIG={shown} reads it all the same"
    try:
        # First of all: whatever somebody has put here, it must not even be an error.
        if not trusted and (why := _doubt(os.lstat(path)) or _doubt(os.stat(path))):
            return refusal.format(why)
        # Without O_NONBLOCK, a pipe of that name would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            opened = os.fstat(descriptor)
            if not trusted and (why := _doubt(opened)):  # it has become another one
                return refusal.format(why)
            if not stat.S_ISREG(opened.st_mode):
                raise ConfigError(f"{shown} is no file")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(_LARGEST + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise ConfigError(f"there is no file {shown}") from None
    except ValueError:  # a NUL in it, or half a character
        raise ConfigError(f"{excerpt(str(path))} is no name of a file") from None
    except OSError as exc:
        raise ConfigError(f"{shown} cannot be read: {exc.strerror}") from exc
    if len(content) > _LARGEST:
        raise ConfigError(f"{shown} is larger than {_LARGEST >> 20} MiB")
    text = _decoded(content, shown)
    found = SettingsFile(Path(os.path.abspath(path)), shown, _parsed(text, shown), _lines(text))
    for name in found.tables:
        if name not in _TABLES:
            hint = did_you_mean(name, _TABLES) or ": settings stand below [settings]"
            raise ConfigError(f"{found.place(name)}: {excerpt(name)} means nothing here{hint}")
    return found


def _shown(path: Path) -> str:
    here, there = Path.cwd(), Path(os.path.abspath(path))
    inside = there.is_relative_to(here) and here != Path(here.root)
    return shortened(str(there.relative_to(here) if inside else path))


def _doubt(found: os.stat_result) -> str:
    """Why a file that nobody named had better not be read; empty if there is no reason."""
    if found.st_uid not in (0, os.geteuid()):
        return f"it belongs to another user ({found.st_uid})"
    # A link has all rights, which mean nothing.
    return (
        "everybody may write it" if found.st_mode & stat.S_IWOTH and not stat.S_ISLNK(found.st_mode) else ""
    )


def _decoded(content: bytes, shown: str) -> str:
    try:
        # Some editors begin a file with a mark that says it is UTF-8, which TOML does not know.
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{shown}:{line}: this is no UTF-8") from None


def _parsed(text: str, shown: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as exc:  # not all are a TOMLDecodeError: a number may be too long for Python
        words = str(exc)
        if match := _PLACE.fullmatch(words):
            words = f"{match[1]} (column {match[3]})"
            shown = f"{shown}:{match[2]}"
        elif words.endswith("(at end of document)"):
            shown = f"{shown}:{text.rstrip().count(chr(10)) + 1}"
        raise ConfigError(f"{shown}: this is no TOML: {shortened(words)}") from None
    except RecursionError:
        raise ConfigError(f"{shown}: its values lie too deep in one another") from None


def _lines(text: str) -> dict[Key, int]:
    """Where each key begins, in a text that is TOML; tomllib does not say.

    The fewest lines that are TOML by themselves are a header, or one key and its value.
    """
    found: dict[Key, int] = {}
    table: Key = ()
    statement: list[str] = []
    begin = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not statement:
            begin = number
        statement.append(line)
        try:
            document = tomllib.loads("\n".join(statement))
        except ValueError:
            if len(statement) > _LONGEST_VALUE:
                break
            continue
        if statement[0].lstrip().startswith("["):
            table = _only_key(document)
            found.setdefault(table, begin)
        else:
            _note(found, table, document, begin)
        statement.clear()
    return found


def _only_key(document: dict[str, Any]) -> Key:
    """The key of a header."""
    key: Key = ()
    below: Any = document
    while isinstance(below, dict) and below:
        name, below = next(iter(below.items()))
        key += (name,)
    return key


def _note(found: dict[Key, int], table: Key, values: dict[str, Any], line: int) -> None:
    for name, value in values.items():
        found.setdefault((*table, name), line)
        if isinstance(value, dict) and len(table) < 8:  # deeper than any key that means something
            _note(found, (*table, name), value, line)
