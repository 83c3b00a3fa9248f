"""Everything that proto files define, by name: finds what a person means, and how to write a name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)

from pymicro.base.printable import excerpt, listed, shortened
from pymicro.rpc.schema.descriptors import SchemaError, nearest_name

__all__ = ["Symbol", "SymbolNotFound", "Symbols", "is_map_entry", "join", "json_name", "synthetic_oneofs"]


class SymbolNotFound(SchemaError):
    """No symbol has that name, or more than one has."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """One definition.

    Attributes:
        name: Its full name: `greeter.v1.HelloRequest`.
        kind: `service`, `message`, `enum`, `method`, `extension`, `field`, `oneof` or `value`.
        file: The proto file that defines it.
        path: Its place in that file, as in `SourceCodeInfo`: numbers of fields and indices.
        descriptor: The definition itself, such as a `DescriptorProto`.
        parent: Full name of what contains it: the package, if it is at the top of its file.
        holder: Descriptor of what contains it; the file's, if it is at the top.
    """

    name: str
    kind: str
    file: FileDescriptorProto
    path: tuple[int, ...]
    descriptor: Any
    parent: str
    holder: Any


# If symbols share a short name, the first kind in this row is meant. A symbol of `_PARTS` needs
# more than its last word: every other message has a `name`.
_KINDS = ("service", "message", "enum", "method", "extension")
_PARTS = ("field", "oneof", "value")

# A longer list would scroll the message itself off a terminal.
_LISTED = 20


class Symbols:
    """The definitions in proto files.

    Args:
        files: The files with all their imports.
    """

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        self._all = {symbol.name: symbol for file in files for symbol in _walk(file)}
        packages = {symbol.file.package for symbol in self._all.values()}
        self._names = set(self._all)
        for package in packages:
            words = package.split(".")
            self._names.update(".".join(words[: count + 1]) for count in range(len(words)))

    def __iter__(self) -> Iterator[Symbol]:
        return iter(self._all.values())

    def get(self, name: str) -> Symbol | None:
        """The symbol of this full name."""
        return self._all.get(name)

    def find(self, text: str) -> Symbol:
        """The symbol a person means by `text`.

        Args:
            text: A full name, or the end of one: `Greeter`, `Greeter.SayHello`,
                `Greeter/SayHello`, `v1.HelloRequest`.

        Raises:
            SymbolNotFound: No symbol fits, or more than one; the text lists near or existing ones.
        """
        wanted = text.replace("/", ".").strip(".")
        if found := self._all.get(wanted):
            return found
        ending = _own([symbol for symbol in self if symbol.name.endswith(f".{wanted}")])
        for kind in _KINDS if "." not in wanted else (*_KINDS, *_PARTS):
            fitting = [symbol for symbol in ending if symbol.kind == kind]
            if len(fitting) == 1:
                return fitting[0]
            if fitting:
                names = listed(sorted(symbol.name for symbol in fitting), _LISTED)
                raise SymbolNotFound(f"{excerpt(text)} may be each of {names}: say which")
        raise SymbolNotFound(self._not_found(text))

    def _not_found(self, text: str) -> str:
        message = f"there is no symbol {excerpt(text)}"
        there = _own([symbol for symbol in self if symbol.kind in _KINDS])
        if near := nearest_name(text.replace("/", ".").strip("."), [symbol.name for symbol in there]):
            return f"{message}; did you mean {shortened(near)}?"
        top = sorted(symbol.name for symbol in there if symbol.kind in _KINDS[:3] and len(symbol.path) == 2)
        if not top:
            return f"{message}; nothing is known at all"
        listing = "".join(f"\n  {shortened(name)}" for name in top[:_LISTED])
        more = f"\n  and {len(top) - _LISTED} more" if len(top) > _LISTED else ""
        return f"{message}; there are:{listing}{more}"

    def shorten(self, name: str, scope: str, package: str) -> str:
        """`name` as it is written inside `scope`.

        A name of the same package loses as much of its front as it can; a name of
        another package keeps all. protoc looks up the first word of a name from the
        innermost scope outwards. If it would find something else there, the name gets
        a dot in front.

        Args:
            name: A full name without a dot in front.
            scope: Full name of the place where it is written.
            package: The package of the file that it is written in.
        """
        words = name.split(".")
        inside = not package or name.startswith(f"{package}.")
        first = len(words) - 1 if inside else 0
        last = package.count(".") + 1 if inside and package else 0
        for start in range(first, last - 1, -1):
            short = ".".join(words[start:])
            if self._resolve(short, scope) == name:
                return short
        return f".{name}"

    def _resolve(self, name: str, scope: str) -> str | None:
        front, dot, rest = name.partition(".")
        scopes = scope.split(".") if scope else []
        for count in range(len(scopes), -1, -1):
            found = ".".join([*scopes[:count], front])
            if found in self._names:
                return f"{found}{dot}{rest}"
        return None


def _own(symbols: list[Symbol]) -> list[Symbol]:
    """All but protobuf's own types, which every program has; those only if there are no others."""
    return [symbol for symbol in symbols if symbol.file.package != "google.protobuf"] or symbols


def is_map_entry(message: DescriptorProto) -> bool:
    """Whether protoc made the message from a `map<…>` field."""
    return message.options.map_entry


def synthetic_oneofs(message: DescriptorProto) -> set[int]:
    """Indices of the oneofs that protoc makes for proto3's `optional` fields."""
    return {field.oneof_index for field in message.field if field.proto3_optional}


def json_name(name: str) -> str:
    """A field's name in JSON, unless its proto gives another one."""
    return re.sub(r"_+([^_]?)", lambda match: match[1].upper(), name)


def _walk(file: FileDescriptorProto) -> Iterator[Symbol]:
    package = file.package
    yield from _messages(file, file.message_type, (4,), package, file)
    yield from _enums(file, file.enum_type, (5,), package, file)
    for index, service in enumerate(file.service):
        yield from _service(file, service, (6, index))
    yield from _leaves(file, "extension", file.extension, (7,), package, file)


def _messages(
    file: FileDescriptorProto,
    messages: Sequence[DescriptorProto],
    path: tuple[int, ...],
    parent: str,
    holder: Any,
) -> Iterator[Symbol]:
    for index, message in enumerate(messages):
        if is_map_entry(message):
            continue
        name, place = join(parent, message.name), (*path, index)
        yield Symbol(name, "message", file, place, message, parent, holder)
        yield from _leaves(file, "field", message.field, (*place, 2), name, message)
        yield from _messages(file, message.nested_type, (*place, 3), name, message)
        yield from _enums(file, message.enum_type, (*place, 4), name, message)
        yield from _leaves(file, "extension", message.extension, (*place, 6), name, message)
        synthetic = synthetic_oneofs(message)
        for number, oneof in enumerate(message.oneof_decl):
            if number not in synthetic:
                where = (*place, 8, number)
                yield Symbol(join(name, oneof.name), "oneof", file, where, oneof, name, message)


def _enums(
    file: FileDescriptorProto,
    enums: Sequence[EnumDescriptorProto],
    path: tuple[int, ...],
    parent: str,
    holder: Any,
) -> Iterator[Symbol]:
    for index, enum in enumerate(enums):
        place = (*path, index)
        yield Symbol(join(parent, enum.name), "enum", file, place, enum, parent, holder)
        # As in C++, a value's name belongs to the scope that its enum is in.
        yield from _leaves(file, "value", enum.value, (*place, 2), parent, enum)


def _service(
    file: FileDescriptorProto, service: ServiceDescriptorProto, path: tuple[int, ...]
) -> Iterator[Symbol]:
    name = join(file.package, service.name)
    yield Symbol(name, "service", file, path, service, file.package, file)
    yield from _leaves(file, "method", service.method, (*path, 2), name, service)


def _leaves(
    file: FileDescriptorProto,
    kind: str,
    found: Sequence[Any],
    path: tuple[int, ...],
    parent: str,
    holder: Any,
) -> Iterator[Symbol]:
    for index, leaf in enumerate(found):
        yield Symbol(join(parent, leaf.name), kind, file, (*path, index), leaf, parent, holder)


def join(parent: str, name: str) -> str:
    """The full name of something inside `parent`, a package or a definition."""
    return f"{parent}.{name}" if parent else name
