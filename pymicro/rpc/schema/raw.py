"""Messages as JSON whatever is in them: a value that has no JSON form is written as the fields that it has.

The protobuf JSON mapping has no form for a Timestamp past the year 9999, a path with
capitals in a FieldMask, an infinite number in a Value, an `Any` of no or of unknown type:
https://protobuf.dev/programming-guides/json/.
"""

from __future__ import annotations

import base64
from typing import Any, cast

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message

from pymicro.base.printable import shortened
from pymicro.rpc.schema.shape import is_repeated

__all__ = ["NO_FORM", "strict_json", "to_raw_json"]

# What json_format raises if a value has no JSON form.
NO_FORM = (json_format.Error, TypeError, ValueError, KeyError, DecodeError, RecursionError)

# Messages whose JSON is no object with their fields.
_OWN_FORM = frozenset(
    f"google.protobuf.{name}"
    for name in ("Any", "Duration", "FieldMask", "ListValue", "Struct", "Timestamp", "Value")
)


def strict_json(message: Message) -> Any:
    """The message as json_format writes it; it raises one of `NO_FORM` if it cannot."""
    pool = cast(DescriptorPool, message.DESCRIPTOR.file.pool)
    return json_format.MessageToDict(message, descriptor_pool=pool)


def to_raw_json(message: Message) -> tuple[Any, list[str]]:
    """The message in the form that `json.dumps` takes, whatever is in it.

    An `Any` that cannot be read is its `@type` and, in base64, its `@value`, as in grpcurl.

    Returns:
        The document, and a line for each value that has no JSON form: where it is, and why not.
    """
    writer = _JsonWriter()
    return writer.write(message, ""), writer.odd


class _JsonWriter:
    """Writes one message.

    Attributes:
        odd: What has no JSON form.
    """

    def __init__(self) -> None:
        self.odd: list[str] = []

    def write(self, message: Any, place: str) -> Any:
        """The JSON of a message; what is inside of it is tried only if the whole has none."""
        try:
            return strict_json(message)
        except NO_FORM as exc:
            reason = str(exc)
        match message.DESCRIPTOR.full_name:
            case "google.protobuf.Any":
                return self._any(message, place)
            case "google.protobuf.Struct":
                return {key: self.write(item, _below(place, key)) for key, item in message.fields.items()}
            case "google.protobuf.ListValue":
                return [self.write(item, f"{place}[{at}]") for at, item in enumerate(message.values)]
            case "google.protobuf.Value" if isinstance(inner := _only(message), Message):
                return self.write(inner, place)
            case "google.protobuf.Value":
                self._tell(place, reason)
                return str(_only(message))
            case "google.protobuf.Duration" | "google.protobuf.FieldMask" | "google.protobuf.Timestamp":
                self._tell(place, reason)
                return {field.json_name: _plain(value) for field, value in message.ListFields()}
        return self._fields(message, place)

    def _tell(self, place: str, reason: str) -> None:
        self.odd.append(f"{shortened(place) or 'the message'} ({shortened(reason)})")

    def _any(self, packed: Any, place: str) -> Any:
        name = packed.type_url.rpartition("/")[2]
        try:
            descriptor = packed.DESCRIPTOR.file.pool.FindMessageTypeByName(name)
            inner = message_factory.GetMessageClass(descriptor).FromString(packed.value)
        except (KeyError, DecodeError):
            if not name:
                self._tell(place, "an Any without a type")
            return {"@type": packed.type_url, "@value": base64.b64encode(packed.value).decode()}
        document = self.write(inner, place)
        if name in _OWN_FORM:
            return {"@type": packed.type_url, "value": document}
        return {"@type": packed.type_url, **document}

    def _fields(self, message: Any, place: str) -> dict[str, Any]:
        """The fields one by one: json_format writes those that are no messages."""
        rest = type(message)()
        rest.CopyFrom(message)
        shown: dict[str, Any] = {}
        for field, value in message.ListFields():
            key = f"[{field.full_name}]" if field.is_extension else field.json_name
            shown[key] = None
            items = _messages(field, value)
            if items is None:
                continue
            if field.is_extension:
                rest.ClearExtension(field)
            else:
                rest.ClearField(field.name)
            below = _below(place, key)
            written = {at: self.write(item, f"{below}[{at}]" if at else below) for at, item in items}
            shown[key] = (
                written if _is_map(field) else list(written.values()) if _is_list(field) else written[""]
            )
        shown.update(strict_json(rest))
        return shown


def _messages(field: FieldDescriptor, value: Any) -> list[tuple[str, Any]] | None:
    """The messages in a field, each with its key or index; None if there are none."""
    if field.message_type is None:
        return None
    if not _is_map(field):
        return [(str(at), item) for at, item in enumerate(value)] if _is_list(field) else [("", value)]
    if field.message_type.fields_by_name["value"].message_type is None:
        return None
    return [(str(key).lower() if isinstance(key, bool) else str(key), item) for key, item in value.items()]


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _is_list(field: FieldDescriptor) -> bool:
    return is_repeated(field) and not _is_map(field)


def _only(message: Any) -> Any:
    """The one field of a Value that is set."""
    return next((value for _, value in message.ListFields()), None)


def _plain(value: Any) -> Any:
    """A value of a Duration, FieldMask or Timestamp."""
    # As json_format: a number of 64 bits is text.
    return str(value) if isinstance(value, int) else list(value)


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
