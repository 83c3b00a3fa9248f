"""Messages as JSON, in the protobuf JSON mapping.

Field names are written in lowerCamelCase, and read in that form or in the
proto's spelling; 64-bit integers are strings, bytes are base64, an `Any` carries
its `@type`: https://protobuf.dev/programming-guides/json/.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message

from pymicro.base.printable import excerpt, listed, shortened
from pymicro.rpc.schema.descriptors import SchemaError
from pymicro.rpc.schema.documents import Document
from pymicro.rpc.schema.raw import NO_FORM, strict_json
from pymicro.rpc.schema.shape import ShapeError, check_shape

__all__ = ["JsonError", "UnknownTypes", "from_json", "to_json"]

M = TypeVar("M", bound=Message)

_ANY = "google.protobuf.Any"


class JsonError(SchemaError):
    """The text is no JSON, or the JSON does not fit the message.

    Attributes:
        line: Line in the source, from 1.
        column: Column in the line, from 1; None if only the document is known.
    """

    def __init__(self, message: str, line: int = 1, column: int | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.line, self.column)


class UnknownTypes(SchemaError):
    """There is an `Any` of types that the message's pool does not know.

    Attributes:
        names: Full names of these types.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        super().__init__(f"unknown message type: {listed(sorted(self.names))}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.names,)


def from_json(source: str | Document, kind: type[M]) -> M:
    """The message that a JSON document describes.

    Args:
        source: The document, with its place in a longer text if it has one.
        kind: The message's class; the pool of its descriptor resolves an `Any`.

    Raises:
        JsonError: The text is no JSON, or does not fit: it has an unknown field (the
            error lists the existing ones) or a value of the wrong type.
        UnknownTypes: There is an `Any` of unknown type.
    """
    document = source if isinstance(source, Document) else Document(source)
    value = _parse(document)
    descriptor = cast(Descriptor, kind.DESCRIPTOR)
    try:
        unknown = check_shape(value, descriptor)
        if unknown:
            raise UnknownTypes(unknown)
        message = kind()
        json_format.ParseDict(value, message, descriptor_pool=_pool(descriptor))
    except ShapeError as exc:
        raise JsonError(str(exc), document.line) from None
    except (
        json_format.Error,
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as exc:
        # If a value has an odd type, json_format lets other errors than its own through.
        reason: BaseException = exc
        while reason.__cause__ is not None:
            reason = reason.__cause__
        raise JsonError(
            f"this is no {descriptor.full_name}: {shortened(str(reason), 500)}", document.line
        ) from exc
    return message


def _pool(descriptor: Any) -> DescriptorPool:
    return cast(DescriptorPool, descriptor.file.pool)


def _parse(document: Document) -> Any:
    try:
        return json.loads(document.text, object_pairs_hook=_no_repeats, parse_constant=_no_constant)
    except json.JSONDecodeError as exc:
        line, column = document.line + exc.lineno - 1, exc.colno
        if exc.lineno == 1:
            column += document.column - 1
        raise JsonError(f"this is no JSON: {exc.msg}", line, column) from None
    except RecursionError:
        raise JsonError("nested too deeply", document.line) from None
    except ValueError as exc:  # from the hooks, or for integers with thousands of digits
        raise JsonError(str(exc), document.line) from None


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((repeated, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"field {excerpt(repeated, 80)} is there more than once")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f'{text} is no JSON; as a number of a message write "{text}" in quotes')


def to_json(message: Message) -> Any:
    """The message in the form that `json.dumps` takes. Omits fields without presence at their default.

    `to_raw_json` writes what this cannot.

    Args:
        message: The pool of its descriptor resolves an `Any`.

    Raises:
        UnknownTypes: There is an `Any` that cannot be read.
        SchemaError: The message has no JSON form (a Timestamp past the year 9999).
    """
    try:
        return strict_json(message)
    except NO_FORM as exc:
        # json_format has no error of its own for an Any of unknown type.
        unreadable = list(_unreadable(message))
        if unreadable:
            raise UnknownTypes(unreadable) from None
        raise SchemaError(
            f"a {message.DESCRIPTOR.full_name} has no JSON form: {shortened(str(exc), 500)}"
        ) from exc


def _unreadable(message: Message) -> Iterator[str]:
    """The type of each `Any` in `message`, itself included, that cannot be read."""
    if message.DESCRIPTOR.full_name == _ANY:
        yield from _faults(message)
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if isinstance(value, Message):
            yield from _unreadable(value)
        elif not field.message_type.GetOptions().map_entry:
            for item in value:
                yield from _unreadable(item)
        elif field.message_type.fields_by_name["value"].message_type is not None:
            for item in value.values():
                yield from _unreadable(item)


def _faults(packed: Any) -> Iterator[str]:
    """The types that make this `Any` unreadable; one that names none is no matter of types."""
    name = str(packed.type_url).rpartition("/")[2]
    if not name:
        return
    try:
        descriptor = packed.DESCRIPTOR.file.pool.FindMessageTypeByName(name)
        inner = message_factory.GetMessageClass(descriptor).FromString(packed.value)
    except (KeyError, DecodeError):
        yield name
    else:
        yield from _unreadable(inner)
