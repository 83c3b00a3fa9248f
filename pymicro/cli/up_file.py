"""The services of a `pymicro.toml`, as values that are known to make sense."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymicro.base.durations import parse_duration
from pymicro.base.printable import excerpt, listed, shortened
from pymicro.base.suggest import did_you_mean
from pymicro.cli.report import InputError
from pymicro.cli.service_place import ServicePlace
from pymicro.settings.file import SettingsFile

__all__ = ["OWN_NAME", "WantedService", "read_services"]

# What `pymicro up` calls itself among the names of the services.
OWN_NAME = "up"
# Processes of one service, and of all: each costs some 40 MB and three files.
_MOST_REPLICAS = 100
_MOST_PROCESSES = 200

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_EXAMPLE = '[services.greeter] with run = "server.py"'


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedService:
    """One of the services that are to run.

    Attributes:
        name: Its name in the file.
        folder: Its working folder.
        run: What `pymicro run` is to run; empty for another program.
        command: That program with its arguments.
        args: Arguments after `run`.
        env: Variables that it has besides those of everybody.
        replicas: How many processes of it run.
        watch: Further folders whose changes concern it.
        stop_first: Whether a new process starts only when the previous one has ended.
        grace: Seconds that a `command` may take to stop.
    """

    name: str
    folder: Path
    run: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    replicas: int = 1
    watch: tuple[Path, ...] = ()
    stop_first: bool = False
    grace: float = 10.0

    def watched(self) -> list[Path]:
        """The folders whose changes concern it."""
        own = [ServicePlace.read(self.run, self.folder).folder()] if self.run else []
        return [*own, *self.watch]


def read_services(file: SettingsFile, only: Collection[str] = ()) -> list[WantedService]:
    """The services of a file, in its order.

    Args:
        only: The names of those that are wanted; empty for all. The others must make sense too, but
            their programs need not be there.

    Raises:
        ConfigError: What should be a table is none.
        InputError: A service cannot run as it is written; says where, and why.
    """
    table = file.table("services")
    if not table:
        raise InputError(f"{file.name} has no services: write {_EXAMPLE}")
    found = [_read(file, name) for name in table]
    for name in only:
        if name not in table:
            near = did_you_mean(name, table) or f"; there are: {listed(table)}"
            raise InputError(f"--only: {file.name} has no service {excerpt(name)}{near}")
    wanted = [service for service in found if not only or service.name in only]
    for service in wanted:
        place = file.place("services", service.name, "run" if service.run else "command")
        _check_program(service, place)
    if (count := sum(service.replicas for service in wanted)) > _MOST_PROCESSES:
        raise InputError(f"{file.name} wants {count} processes, and {_MOST_PROCESSES} is the most")
    _check_labels(file, found)
    return wanted


def _check_labels(file: SettingsFile, services: Collection[WantedService]) -> None:
    """The second of two replicas of `a` is called `a.2`, and a service may be called so."""
    for service in services:
        base, _, number = service.name.rpartition(".")
        for other in services:
            if other.name == base and number in map(str, range(1, other.replicas + 1)) and other.replicas > 1:
                raise InputError(
                    f"{file.place('services', service.name)}: {excerpt(service.name)} is also what "
                    f"a replica of {excerpt(base)} is called: choose another name"
                )


def _read(file: SettingsFile, name: str) -> WantedService:
    key = ("services", name)
    where = file.place(*key)
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{where}: {excerpt(name)} is no name for a service: it has letters, digits, and - _ . between "
            "them, 63 at most"
        )
    if name == OWN_NAME:
        raise InputError(f"{where}: {excerpt(OWN_NAME)} is what pymicro up calls itself: choose another name")
    table = file.table(*key)
    values: dict[str, Any] = {}
    for word, value in table.items():
        place = file.place(*key, word)
        if word not in _READERS:
            near = (
                _ELSEWHERE.get(word) or did_you_mean(word, _READERS) or f"; it may have: {listed(_READERS)}"
            )
            raise InputError(f"{place}: a service has no {excerpt(word)}{near}")
        try:
            values[word] = _READERS[word](value)
        except (TypeError, ValueError) as exc:
            raise InputError(f"{place}: {word} of {name}: {exc}") from None
    values.pop("settings", None)
    if ("run" in values) == ("command" in values):
        both = "both run and command" if "run" in values else "neither run nor command"
        raise InputError(f"{where}: the service {excerpt(name)} has {both}: it needs one of them")
    for word, (needed, why) in _BELONGS.items():
        if word in values and needed not in values:
            raise InputError(f"{file.place(*key, word)}: {word} of {name} goes with {needed}: {why}")
    home = file.path.parent
    folder = _folder(home, values.pop("cwd", "."), file.place(*key, "cwd"), f"cwd of {name}")
    watch = [
        _folder(home, one, file.place(*key, "watch"), f"watch of {name}") for one in values.pop("watch", ())
    ]
    return WantedService(name=name, folder=folder, watch=tuple(watch), **values)


def _folder(home: Path, text: str, place: str, what: str) -> Path:
    folder = home / text
    if not os.path.isdir(folder):  # which is False of a name that is too long, too
        raise InputError(f"{place}: {what}: there is no folder {shortened(text)} in {home}")
    return folder.resolve()


def _check_program(service: WantedService, place: str) -> None:
    """Whether there is a program to run.

    Raises:
        InputError: There is none.
    """
    if service.run:
        try:
            ServicePlace.read(service.run, service.folder).folder()
        except InputError as exc:
            hint = "; what follows the program goes into args" if " " in service.run.strip() else ""
            raise InputError(f"{place}: run of {service.name}: {exc}{hint}") from None
        return
    program = service.command[0]
    what = f"{place}: command of {service.name}"
    if "/" in program:
        path = service.folder / program
        if not os.path.isfile(path):
            raise InputError(f"{what}: there is no file {shortened(program)} in {service.folder}")
        if not os.access(path, os.X_OK):
            raise InputError(f"{what}: {shortened(program)} is no program: it is not executable")
    elif shutil.which(program, path=service.env.get("PATH")) is None:
        raise InputError(f"{what}: there is no program {excerpt(program)} in the PATH")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{excerpt(value)} is no text")
    if "\0" in value:
        raise ValueError(f"{excerpt(value)} has a NUL in it, which no program can be given")
    return value


def _some_text(value: Any) -> str:
    if not _text(value).strip():
        raise ValueError("it is empty")
    return _text(value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f'{excerpt(value)} is no list of texts, such as ["one", "two"]')
    return tuple(map(_text, value))


def _command(value: Any) -> tuple[str, ...]:
    words = _texts(value)
    if not words or not words[0].strip():
        raise ValueError("it names no program")
    return words


def _env(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError(f'{excerpt(value)} is no table of variables, such as {{ NAME = "text" }}')
    found = {}
    for name, text in value.items():
        if not name or "=" in name:
            raise ValueError(f"{excerpt(name)} is no name of a variable")
        # A number can be written in one way, a truth in too many.
        plain = str(text) if isinstance(text, int | float) and not isinstance(text, bool) else text
        try:
            found[_text(name)] = _text(plain)
        except (TypeError, ValueError) as exc:
            raise ValueError(f"{name}: {exc}") from None
    return found


def _replicas(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{excerpt(value)} is no whole number")
    if not 1 <= value <= _MOST_REPLICAS:
        raise ValueError(f"{excerpt(value)} is not between 1 and {_MOST_REPLICAS}")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{excerpt(value)} is neither true nor false")
    return value


def _duration(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(f"{excerpt(value)} is no duration (like 500ms, 5s, 1m30s)")
    return parse_duration(str(value))


def _settings(value: Any) -> None:
    # What is in it is read where all settings are.
    if not isinstance(value, dict):
        raise TypeError(f"{excerpt(value)} is no table of settings")


# How each word of a service is read; raises TypeError or ValueError.
_READERS: Mapping[str, Callable[[Any], Any]] = {
    "run": _some_text,
    "command": _command,
    "args": _texts,
    "env": _env,
    "cwd": _some_text,
    "replicas": _replicas,
    "watch": _texts,
    "stop_first": _truth,
    "grace": _duration,
    "settings": _settings,
}

# What docker compose has, and where it is here.
_ELSEWHERE = {
    "build": ": pymicro runs what is there; write command",
    "depends_on": ": services start in any order, and wait for each other",
    "deploy": "; write replicas",
    "entrypoint": "; write command",
    "environment": "; write env",
    "image": ": pymicro runs no containers; write run or command",
    "ports": ": a service finds a free one; to fix it, write settings.server_address",
    "restart": ": what crashes is always started again",
    "scale": "; write replicas",
    "stop_grace_period": "; write grace, or for a service of pymicro's settings.stop_grace",
    "working_dir": "; write cwd",
}

# Words that make sense beside another one only, and why.
_BELONGS = {
    "args": ("run", "a command has its arguments in it"),
    "stop_first": ("run", "a command always stops before it starts again"),
    "grace": ("command", "for a service of pymicro's the settings stop_grace and drain_delay say it"),
}
