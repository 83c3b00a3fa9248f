"""Messages as JSON, in the protobuf JSON mapping.

Field names are written in lowerCamelCase, and read in that form or in the
proto's spelling; 64-bit integers are strings, bytes are base64, an `Any` carries
its `@type`: https://protobuf.dev/programming-guides/json/.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message

from pymicro.rpc.schema.descriptors import SchemaError
from pymicro.rpc.schema.documents import Document
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
        super().__init__(f"unknown message type: {', '.join(sorted(self.names))}")

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
        raise JsonError(f"this is no {descriptor.full_name}: {reason}", document.line) from exc
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
        raise ValueError(f"field {repeated[:80]!r} is there more than once")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f'{text} is no JSON; as a number of a message write "{text}" in quotes')


def to_json(message: Message, *, raw_unknown: bool = False) -> Any:
    """The message in the form that `json.dumps` takes. Omits fields without presence at their default.

    Args:
        message: The pool of its descriptor resolves an `Any`.
        raw_unknown: Write an `Any` that cannot be read as its `@type` and, in
            base64, its `@value` (as grpcurl does) instead of raising.

    Raises:
        UnknownTypes: There is an `Any` that cannot be read.
        SchemaError: The message has no JSON form (a Timestamp past the year 9999).
    """
    try:
        return json_format.MessageToDict(message, descriptor_pool=_pool(message.DESCRIPTOR))
    except (json_format.Error, TypeError, ValueError, DecodeError) as exc:
        # json_format has no error of its own for an Any of unknown type.
        unreadable = list(_unreadable(message))
        if not unreadable:
            raise SchemaError(f"a {message.DESCRIPTOR.full_name} has no JSON form: {exc}") from exc
        if not raw_unknown:
            raise UnknownTypes(name for _, name in unreadable) from None
    return _to_raw_json(message)


def _to_raw_json(message: Message) -> Any:
    """Like `to_json`, with each unreadable `Any` as `@type` and `@value`.

    json_format cannot learn that. So an empty `Any` inside an `Any`, which it can
    write, replaces each of them, and its marked URL finds it again.
    """
    copy = type(message)()
    copy.CopyFrom(message)
    mark = uuid.uuid4().hex  # so that no peer's text looks like ours
    shown: dict[str, Any] = {}
    for packed, _ in list(_unreadable(copy)):
        url = f"{mark}/{len(shown)}/{_ANY}"
        shown[url] = {"@type": packed.type_url, "@value": base64.b64encode(packed.value).decode()}
        packed.type_url = url
        packed.value = b""

    def put_back(value: Any) -> Any:
        if isinstance(value, list):
            return [put_back(item) for item in value]
        if isinstance(value, dict):
            url = value.get("@type")
            if isinstance(url, str) and url in shown:
                return shown[url]
            return {key: put_back(item) for key, item in value.items()}
        return value

    return put_back(to_json(copy))


def _unreadable(message: Message) -> Iterator[tuple[Any, str]]:
    """Every `Any` in `message`, itself included, that cannot be read, with the name of the type at fault.

    If an unreadable one is packed in another, this yields the outer one: packed
    messages cannot be changed in place.
    """
    if message.DESCRIPTOR.full_name == _ANY:
        fault = _fault(message)
        if fault:
            yield message, fault
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


def _fault(packed: Any) -> str | None:
    """The type that makes this `Any` unreadable; None if it can be read."""
    if not packed.ListFields():
        return None
    name = str(packed.type_url).rpartition("/")[2]
    try:
        descriptor = packed.DESCRIPTOR.file.pool.FindMessageTypeByName(name)
        inner = message_factory.GetMessageClass(descriptor).FromString(packed.value)
    except (KeyError, DecodeError):
        return name
    return next((fault for _, fault in _unreadable(inner)), None)
