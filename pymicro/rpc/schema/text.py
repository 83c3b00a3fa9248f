"""Proto source from descriptors; protoc reads it back as the same descriptors.

If the descriptors carry comments (`source_code_info`), they come back, all but those
at options, and so does the order of the definitions. Otherwise services come first
and types after.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    EnumValueDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from pymicro.rpc.schema.options import bracketed, edition_text, quoted, settings, statements, unknown
from pymicro.rpc.schema.symbols import Symbol, Symbols, is_map_entry, join, json_name, synthetic_oneofs

__all__ = ["file_text", "symbol_text"]

Path = tuple[int, ...]

_WIDTH = 80
# The ends that `max` stands for: one past the largest number of a field, one past that of a field in
# a MessageSet, and the largest value of an enum, which is inside its range.
_MAX_FIELD, _MAX_IN_SET, _MAX_VALUE = 1 << 29, (1 << 31) - 1, (1 << 31) - 1
# From edition 2024; protobuf before 6.32 knows none.
_VISIBILITIES = {1: "local ", 2: "export "}


def file_text(file: FileDescriptorProto, symbols: Symbols) -> str:
    """The whole proto file.

    Args:
        file: One of `Schema.files`, so that its options are known.
        symbols: The symbols of the file and of all its imports.
    """
    return "\n".join(_Printer(file, symbols).file()) + "\n"


def symbol_text(symbol: Symbol, symbols: Symbols) -> str:
    """The definition of one symbol as its file has it."""
    return "\n".join(_Printer(symbol.file, symbols).symbol(symbol)) + "\n"


@dataclass(frozen=True, slots=True)
class _Member:
    """Lines of one thing inside a block.

    Attributes:
        path: Its place in the file.
        lines: The lines, comments included.
        apart: Whether it has an empty line before and after it.
    """

    path: Path
    lines: list[str]
    apart: bool = True


class _Printer:
    """Writes one file. Paths and their numbers are those of `SourceCodeInfo` in descriptor.proto."""

    def __init__(self, file: FileDescriptorProto, symbols: Symbols) -> None:
        self._file = file
        self._symbols = symbols
        self._editions = file.syntax == "editions"
        self._places: dict[Path, Any] = {}
        for location in file.source_code_info.location:
            self._places.setdefault(tuple(location.path), location)

    def file(self) -> list[str]:
        file, package = self._file, self._file.package
        if self._editions:
            name = edition_text(file)
            lines = self._commented((14,), [f'edition = "{name}";'])
        else:
            lines = self._commented((12,), [f'syntax = "{file.syntax or "proto2"}";'])
        if package:
            lines += ["", *self._commented((2,), [f"package {package};"])]
        if imports := list(self._imports()):
            lines += ["", *imports]
        if options := statements(file.options, self._shortener(package)):
            lines += ["", *options]
        definitions = [
            *(self._service(service, (6, i)) for i, service in enumerate(file.service)),
            *(self._message(message, (4, i), package) for i, message in self._plain_messages(file)),
            *(self._enum(enum, (5, i), package) for i, enum in enumerate(file.enum_type)),
            *self._extensions(file, (7,), package),
        ]
        for definition in self._ordered(definitions):
            lines += ["", *definition.lines]
        return lines

    def symbol(self, symbol: Symbol) -> list[str]:
        """The lines of one symbol; for a part of another one, such as a field, its lines alone."""
        descriptor, path, parent, holder = symbol.descriptor, symbol.path, symbol.parent, symbol.holder
        match symbol.kind:
            case "service":
                member = self._service(descriptor, path)
            case "message":
                member = self._message(descriptor, path, parent)
            case "enum":
                member = self._enum(descriptor, path, parent)
            case "method":
                member = self._method(descriptor, path, parent)
            case "value":
                member = self._value(descriptor, path, parent)
            case "oneof":
                member = self._oneof(holder, path[:-2], path[-1], parent)
            case "extension":
                member = self._extend([self._field(descriptor, path, parent, holder)], descriptor, parent)
            case _:
                member = self._field(descriptor, path, parent, holder)
        return member.lines

    def _imports(self) -> Iterator[str]:
        public, weak = set(self._file.public_dependency), set(self._file.weak_dependency)
        for index, name in enumerate(self._file.dependency):
            kind = "public " if index in public else "weak " if index in weak else ""
            yield from self._commented((3, index), [f"import {kind}{quoted(name)};"])
        # From edition 2024 too.
        for name in getattr(self._file, "option_dependency", ()):
            yield f"import option {quoted(name)};"

    def _service(self, service: ServiceDescriptorProto, path: Path) -> _Member:
        scope = join(self._file.package, service.name)
        options = statements(service.options, self._shortener(self._file.package))
        methods = [self._method(method, (*path, 2, i), scope) for i, method in enumerate(service.method)]
        return self._block(f"service {service.name}", path, options, methods)

    def _method(self, method: MethodDescriptorProto, path: Path, scope: str) -> _Member:
        request, response = (self._type(name, scope) for name in (method.input_type, method.output_type))
        request = f"stream {request}" if method.client_streaming else request
        response = f"stream {response}" if method.server_streaming else response
        head = f"rpc {method.name}({request}) returns ({response})"
        if options := statements(method.options, self._shortener(scope)):
            return self._block(head, path, options, [])
        lines = self._commented(path, [f"{head};"])
        return _Member(path, lines, apart=len(lines) > 1)

    def _message(
        self, message: DescriptorProto, path: Path, parent: str, *, head: str = "", at: Path = ()
    ) -> _Member:
        """A message; if `head` is given, the group whose field is `at`."""
        scope = join(parent, message.name)
        members = [
            *self._reserved(message, path, _MAX_FIELD),
            *self._extension_ranges(message, path, scope),
            *self._fields(message, path, scope),
            *(self._enum(enum, (*path, 4, i), scope) for i, enum in enumerate(message.enum_type)),
            *(self._message(nested, (*path, 3, i), scope) for i, nested in self._plain_messages(message)),
            *self._extensions(message, (*path, 6), scope),
        ]
        options = statements(message.options, self._shortener(parent))
        return self._block(
            head or f"{_visibility(message)}message {message.name}", at or path, options, members
        )

    def _plain_messages(self, holder: Any) -> list[tuple[int, DescriptorProto]]:
        """The messages of a file or message that are not written as part of a field."""
        fields = (*getattr(holder, "field", ()), *holder.extension)
        groups = {_last(field.type_name) for field in fields if self._is_group(field)}
        return [
            (index, message)
            for index, message in enumerate(_beside(holder))
            if not is_map_entry(message) and message.name not in groups
        ]

    def _fields(self, message: DescriptorProto, path: Path, scope: str) -> Iterator[_Member]:
        synthetic = synthetic_oneofs(message)
        written = set()
        for index, field in enumerate(message.field):
            if not field.HasField("oneof_index") or field.oneof_index in synthetic:
                yield self._field(field, (*path, 2, index), scope, message)
            elif field.oneof_index not in written:
                written.add(field.oneof_index)
                yield self._oneof(message, path, field.oneof_index, scope)

    def _oneof(self, message: DescriptorProto, path: Path, index: int, scope: str) -> _Member:
        oneof = message.oneof_decl[index]
        fields = [
            self._field(field, (*path, 2, number), scope, message)
            for number, field in enumerate(message.field)
            if field.HasField("oneof_index") and field.oneof_index == index
        ]
        options = statements(oneof.options, self._shortener(scope))
        member = self._block(f"oneof {oneof.name}", (*path, 8, index), options, fields)
        return _Member(member.path, member.lines, apart=False)

    def _field(self, field: FieldDescriptorProto, path: Path, scope: str, holder: Any) -> _Member:
        options = [*_field_settings(field), *settings(field.options, self._shortener(scope))]
        beside = {f".{join(scope, item.name)}": item for item in _beside(holder)}
        entry = beside.get(field.type_name)
        label = self._label(field)
        if self._is_group(field) and entry is not None:
            number = 4 if holder is self._file else 3
            place = (*path[:-2], number, list(_beside(holder)).index(entry))
            head = f"{label}group {entry.name} = {field.number}{bracketed(options)}"
            return self._message(entry, place, scope, head=head, at=path)
        if entry is not None and is_map_entry(entry):
            key, value = (self._field_type(part, scope) for part in entry.field)
            label, kind = "", f"map<{key}, {value}>"
        else:
            kind = self._field_type(field, scope)
        start = f"{label}{kind} {field.name} = {field.number}"
        lines = [f"{start}{bracketed(options)};"]
        if len(options) > 1 and len(lines[0]) > _WIDTH - 2:
            inner = ",\n".join(options).split("\n")
            lines = [f"{start} [", *_indented(inner), "];"]
        return _Member(path, self._commented(path, lines, unknown(field.options)), apart=False)

    def _is_group(self, field: FieldDescriptorProto) -> bool:
        # In editions, a group is an ordinary field with a feature.
        return field.type == FieldDescriptorProto.TYPE_GROUP and not self._editions

    def _label(self, field: FieldDescriptorProto) -> str:
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return "repeated "
        if self._editions:
            return ""
        if field.label == FieldDescriptorProto.LABEL_REQUIRED:
            return "required "
        if field.proto3_optional:
            return "optional "
        return "optional " if self._file.syntax != "proto3" and not field.HasField("oneof_index") else ""

    def _field_type(self, field: FieldDescriptorProto, scope: str) -> str:
        if field.type_name:
            return self._type(field.type_name, scope)
        return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()

    def _enum(self, enum: EnumDescriptorProto, path: Path, parent: str) -> _Member:
        values = [self._value(value, (*path, 2, i), parent) for i, value in enumerate(enum.value)]
        members = [*self._reserved(enum, path, _MAX_VALUE), *values]
        options = statements(enum.options, self._shortener(parent))
        return self._block(f"{_visibility(enum)}enum {enum.name}", path, options, members)

    def _value(self, value: EnumValueDescriptorProto, path: Path, scope: str) -> _Member:
        options = bracketed(settings(value.options, self._shortener(scope)))
        lines = [f"{value.name} = {value.number}{options};"]
        return _Member(path, self._commented(path, lines, unknown(value.options)), apart=False)

    def _extensions(self, holder: Any, path: Path, scope: str) -> Iterator[_Member]:
        """An `extend` block for each run of extensions of one message."""
        run: list[_Member] = []
        for index, field in enumerate(holder.extension):
            run.append(self._field(field, (*path, index), scope, holder))
            following = holder.extension[index + 1 : index + 2]
            if not following or following[0].extendee != field.extendee:
                yield self._extend(run, field, scope)
                run = []

    def _extend(self, fields: Sequence[_Member], field: FieldDescriptorProto, scope: str) -> _Member:
        return self._block(
            f"extend {self._type(field.extendee, scope)}", fields[0].path, [], fields, bare=True
        )

    def _reserved(
        self, holder: DescriptorProto | EnumDescriptorProto, path: Path, most: int
    ) -> Iterator[_Member]:
        # The end of a message's range is outside it; the end of an enum's is inside.
        beyond = 1 if hasattr(holder, "field") else 0
        ranges = [_range(item.start, item.end - beyond, most - beyond) for item in holder.reserved_range]
        number = 9 if beyond else 4
        if ranges:
            yield _Member((*path, number), [f"reserved {', '.join(ranges)};"], apart=False)
        if holder.reserved_name:
            # Editions write identifiers, earlier syntaxes strings.
            names = [name if self._editions else quoted(name) for name in holder.reserved_name]
            yield _Member((*path, number + 1), [f"reserved {', '.join(names)};"], apart=False)

    def _extension_ranges(self, message: DescriptorProto, path: Path, scope: str) -> Iterator[_Member]:
        most = _MAX_IN_SET if message.options.message_set_wire_format else _MAX_FIELD
        for index, item in enumerate(message.extension_range):
            options = bracketed(settings(item.options, self._shortener(scope)))
            line = f"extensions {_range(item.start, item.end - 1, most - 1)}{options};"
            yield _Member((*path, 5, index), [*unknown(item.options), line], apart=False)

    def _block(
        self, head: str, path: Path, options: list[str], members: Sequence[_Member], *, bare: bool = False
    ) -> _Member:
        """`head { … }` with its comments; `bare` if the comments at its path belong to something else."""
        inside: list[str] = []
        comments = None if bare else self._places.get(path)
        if comments is not None and comments.trailing_comments:
            inside += [*_comment(comments.trailing_comments), ""]
        inside += options
        apart = bool(options)
        for member in self._ordered(members):
            if inside and inside[-1] and (apart or member.apart):
                inside.append("")
            inside += member.lines
            apart = member.apart
        while inside and not inside[-1]:
            inside.pop()
        lines = [f"{head} {{", *_indented(inside), "}"] if inside else [f"{head} {{}}"]
        return _Member(path, lines if bare else [*self._leading(path), *lines])

    def _commented(self, path: Path, lines: list[str], remarks: Sequence[str] = ()) -> list[str]:
        """A statement with its comments."""
        lines = [*self._leading(path), *remarks, *lines]
        place = self._places.get(path)
        if place is not None and place.trailing_comments:
            trailing = _comment(place.trailing_comments)
            if len(trailing) == 1:
                lines[-1] += f"  {trailing[0]}"
            else:  # an empty line follows, or the comment would belong to the next one
                lines += [*trailing, ""]
        return lines

    def _leading(self, path: Path) -> list[str]:
        place = self._places.get(path)
        if place is None:
            return []
        lines: list[str] = []
        for detached in place.leading_detached_comments:
            lines += [*_comment(detached), ""]
        return [*lines, *_comment(place.leading_comments)]

    def _ordered(self, members: Sequence[_Member]) -> Sequence[_Member]:
        """The members in the order of the source, if that is known for all of them."""
        places = [self._places.get(member.path) for member in members]
        if any(place is None for place in places):
            return members
        spans = [tuple(place.span[:2]) for place in places if place is not None]
        return [member for _, member in sorted(zip(spans, members, strict=True), key=lambda pair: pair[0])]

    def _type(self, name: str, scope: str) -> str:
        # A name without a dot in front stays as its author wrote it, never looked up.
        return self._symbols.shorten(name[1:], scope, self._file.package) if name.startswith(".") else name

    def _shortener(self, scope: str) -> Any:
        return lambda name: self._symbols.shorten(name, scope, self._file.package)


def _field_settings(field: FieldDescriptorProto) -> list[str]:
    """Settings that source writes among a field's options and the descriptor keeps beside them."""
    found = []
    if field.HasField("default_value"):
        default = field.default_value
        if field.type == FieldDescriptorProto.TYPE_STRING:
            default = quoted(default)
        elif field.type == FieldDescriptorProto.TYPE_BYTES:
            default = f'"{default}"'  # already escaped
        found.append(f"default = {default}")
    if field.json_name not in ("", json_name(field.name)) and not field.extendee:
        found.append(f"json_name = {quoted(field.json_name)}")
    return found


def _beside(holder: Any) -> Sequence[DescriptorProto]:
    """The messages that include a field's group or map entry."""
    found: Sequence[DescriptorProto]
    found = holder.message_type if hasattr(holder, "message_type") else holder.nested_type
    return found


def _visibility(definition: DescriptorProto | EnumDescriptorProto) -> str:
    return _VISIBILITIES.get(getattr(definition, "visibility", 0), "")


def _range(first: int, last: int, most: int) -> str:
    if first == last:
        return str(first)
    return f"{first} to {'max' if last == most else last}"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _comment(text: str) -> list[str]:
    return [f"//{line}".rstrip() for line in text.removesuffix("\n").split("\n")] if text else []


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" if line else "" for line in lines]
