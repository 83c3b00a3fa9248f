"""Proto files that name types which nobody has, made usable all the same.

Servers describe themselves with holes: an import that is not there or has another
path, a file that is only a name, an edition that is newer than this protobuf. A type
that nobody has becomes an empty one, whose fields stay unread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import Message

__all__ = ["defined_types", "is_text", "needed_types", "placeholders", "without_gaps"]

_ENUM = FieldDescriptorProto.TYPE_ENUM


def is_text(message: Message) -> bool:
    """Whether each name in a descriptor is text: protobuf gives what is no UTF-8 as bytes."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            if any(isinstance(one, bytes) for one in ([value] if isinstance(value, str | bytes) else value)):
                return False
        elif field.message_type is not None and not all(
            map(is_text, [value] if isinstance(value, Message) else value)
        ):
            return False
    return True


def needed_types(file: FileDescriptorProto) -> dict[str, bool]:
    """Full names of the types that a file uses and does not define: for each, whether it is an enum."""
    found: dict[str, bool] = {}
    messages = list(file.message_type)
    fields = list(file.extension)
    for message in messages:
        messages += message.nested_type
        fields += (*message.field, *message.extension)
    for field in fields:
        for name, is_enum in ((field.type_name, field.type == _ENUM), (field.extendee, False)):
            if name.startswith("."):
                found[name[1:]] = is_enum
    for service in file.service:
        for method in service.method:
            found.update(dict.fromkeys((method.input_type[1:], method.output_type[1:]), False))
    for name in defined_types(file):
        found.pop(name, None)
    return found


def defined_types(file: FileDescriptorProto) -> Iterator[str]:
    """Full names of a file's messages and enums."""
    above = f"{file.package}." if file.package else ""
    yield from (f"{above}{enum.name}" for enum in file.enum_type)
    yield from _within(file.message_type, above)


def _within(messages: Iterable[DescriptorProto], above: str) -> Iterator[str]:
    for message in messages:
        name = f"{above}{message.name}"
        yield name
        yield from (f"{name}.{enum.name}" for enum in message.enum_type)
        yield from _within(message.nested_type, f"{name}.")


def placeholders(types: Mapping[str, bool], name: str) -> list[FileDescriptorProto]:
    """Files that define empty types.

    Args:
        types: Their full names, and which are enums.
        name: What the names of the files begin with.
    """
    files: dict[str, FileDescriptorProto] = {}
    messages: dict[str, DescriptorProto] = {}
    for full, is_enum in sorted(types.items()):
        above, _, last = full.rpartition(".")
        if above in messages:
            enums, inner = messages[above].enum_type, messages[above].nested_type
        else:
            # An edition, because files of every syntax take its enums, and its messages can have extensions.
            new = FileDescriptorProto(
                name=f"{name}#{above}", package=above, syntax="editions", edition=descriptor_pb2.EDITION_2023
            )
            file = files.setdefault(above, new)
            enums, inner = file.enum_type, file.message_type
        if is_enum:
            enums.add(name=last).value.add(name=f"{last}_IS_NOT_KNOWN", number=0)
        else:
            messages[full] = inner.add(name=last)
            messages[full].extension_range.add(start=1, end=1 << 29)
    return list(files.values())


def without_gaps(
    file: FileDescriptorProto, dependencies: Iterable[str], unknown: Mapping[str, bool]
) -> Iterator[FileDescriptorProto]:
    """Copies of a file, of which a pool may take one: the first is nearest to the original.

    Args:
        dependencies: The files that the pool has and this one needs.
        unknown: Types of which there are only placeholders.
    """
    copy = FileDescriptorProto()
    copy.CopyFrom(file)
    kept = list(dict.fromkeys(dependencies))
    public = [file.dependency[at] for at in file.public_dependency if at < len(file.dependency)]
    copy.ClearField("weak_dependency")
    copy.dependency[:] = kept
    copy.public_dependency[:] = [kept.index(name) for name in public if name in kept]
    if hasattr(copy, "option_dependency"):  # from edition 2024
        copy.ClearField("option_dependency")
    _forget_defaults(copy.message_type, copy.extension, unknown)
    yield copy
    if file.syntax == "editions":
        for edition in _editions(file.edition):
            copy.edition = edition
            yield copy


def _forget_defaults(
    messages: Iterable[DescriptorProto], fields: Iterable[FieldDescriptorProto], unknown: Mapping[str, bool]
) -> None:
    """Delete the defaults of fields of unknown enums, which have no such value."""
    for field in fields:
        if field.type_name[1:] in unknown:
            field.ClearField("default_value")
    for message in messages:
        _forget_defaults(message.nested_type, (*message.field, *message.extension), unknown)


def _editions(newest: int) -> list[descriptor_pb2.Edition.ValueType]:
    """The editions that this protobuf has a name for, below `newest`, the newest first."""
    # Below are the syntaxes before editions, above are names for tests. An edition without a name reads as 0.
    known = descriptor_pb2.Edition.values()
    return sorted((number for number in known if 1000 <= number < (newest or 9000)), reverse=True)
