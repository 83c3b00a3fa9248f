"""What protoc says of protos that do not compile: the mistakes, without what only follows from them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from pymicro.base.printable import shortened
from pymicro.cli.gen_sources import Sources, protos_below, shown

__all__ = ["first_lines", "mistakes", "plainly", "with_paths"]

# More lines would scroll the first one away.
_LISTED = 20

# Folders in which to look for an import that no root has.
_SEARCHED = 5_000

_PLACE = re.compile(r"^(?P<name>[^:\n]+\.proto)(?=:)", re.MULTILINE)
_IMPORT = re.compile(
    r'^(?P<by>[^:\n]+\.proto):(?P<place>\d+:\d+): Import "(?P<name>[^"\n]+)" was not found or had errors\.$'
)
_NOT_FOUND = re.compile(r"^(?P<name>[^:\n]+): File not found\.$")
_TWICE = re.compile(r'^(?P<by>[^:\n]+\.proto):.*is already defined in file "(?P<other>[^"\n]+)"\.$')


# The log that protoc writes some warnings into: the line before the first, and the head of each line.
_LOG = re.compile(
    r"^WARNING: All log messages before absl::InitializeLog\(\).*\n|^W\d{4} [^\]\n]*\] ", re.MULTILINE
)
_NO_SYNTAX = re.compile(
    r"^No edition or syntax specified for the proto file: (?P<name>.+?\.proto)\. .*$", re.MULTILINE
)


def plainly(said: str) -> str:
    """What protoc printed, in the form of its complaints where it writes a log."""
    without = _LOG.sub("", said)
    return _NO_SYNTAX.sub(r'\g<name>: warning: it says no edition or syntax, so "proto2" is meant', without)


def first_lines(said: str) -> str:
    """The first of many lines: if a file is not text, protoc complains about each byte."""
    lines = said.splitlines()
    more = [f"and {len(lines) - _LISTED} lines more"] if len(lines) > _LISTED else []
    return "\n".join([*lines[:_LISTED], *more])


def with_paths(said: str, sources: Sources) -> str:
    """protoc's lines, with the path of each file that they are about in place of its name."""
    return _PLACE.sub(lambda match: _path_of(match["name"], sources), said).strip()


def mistakes(said: str, sources: Sources) -> str:
    """The lines about what somebody has to mend.

    protoc has more for each file that imports a wrong one, and warnings.
    """
    lines = [line for line in said.splitlines() if ": warning: " not in line]
    missing = {match["name"] for line in lines if (match := _NOT_FOUND.match(line))}
    wrong = {_path_of(match["name"], sources) for line in lines if (match := _PLACE.match(line))}
    following = set()
    told = []
    for line in lines:
        if found := _IMPORT.match(line):
            if found["name"] in missing:
                told.append(f"{found['by']}:{found['place']}: {_cannot_find(found['name'], sources)}")
            if found["name"] in missing or _path_of(found["name"], sources) in wrong:
                following.add(found["by"])
    for line in lines:
        place = _PLACE.match(line)
        if not _NOT_FOUND.match(line) and (place is None or place["name"] not in following):
            told.append(line)
            if found := _TWICE.match(line):
                told += _named_twice(found["by"], found["other"], sources)
    # If there is none, some files import each other.
    return first_lines(with_paths("\n".join(dict.fromkeys(told or lines)), sources))


def _path_of(name: str, sources: Sources) -> str:
    # protoc writes the path of a file that it can read.
    path = sources.find(name)
    return shown(path) if path else name


def _cannot_find(name: str, sources: Sources) -> str:
    """That no root has an imported file, and which folder would be the root that has it."""
    message = f"the imported {shortened(name)} is in no folder of the include path (-I)"
    for place in dict.fromkeys([Path.cwd(), *sources.roots]):
        for path in protos_below(place, _SEARCHED):
            if path.as_posix().endswith(f"/{name}"):
                root = Path(path.as_posix().removesuffix(name))
                return f"{message}: add -I {shown(root)}"
    return message


def _named_twice(by: str, other: str, sources: Sources) -> Iterator[str]:
    """That a file of another name is the same one, because a root lies in a root."""
    second = sources.find(other)
    if second is not None and os.path.samefile(_path_of(by, sources), second):
        own = next((name for name, path in sources.files.items() if path == second), by)
        why = "because a folder of the include path (-I) lies in another"
        yield f'{other} is the same file, {why}: import "{own}"'
