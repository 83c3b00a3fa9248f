"""Whether JSON has the shape of a message, in words for the person who wrote it.

json_format checks this too, but names neither the field's neighbours nor the
expected value, and takes some values it should not (a list for a message).
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from pymicro.base.printable import excerpt, listed, shortened
from pymicro.base.suggest import did_you_mean

__all__ = ["ShapeError", "check_shape", "is_repeated"]

_WRAPPERS = "google/protobuf/wrappers.proto"
_SPECIAL = frozenset(
    f"google.protobuf.{name}"
    for name in ("Duration", "FieldMask", "ListValue", "Struct", "Timestamp", "Value")
)
# The mapping allows either alphabet, padded or not; json_format skips characters of neither.
_BASE64 = re.compile(r"[-+/_A-Za-z0-9]*={0,2}")
# What the mapping takes as a quoted number; Python takes more: "1_0", " 1", "inf".
_WHOLE = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_SPECIAL_NUMBERS = ("NaN", "Infinity", "-Infinity")
_SURROGATE = re.compile("[\ud800-\udfff]")  # json.loads joins those that belong together
_LARGEST = {
    FieldDescriptor.TYPE_FLOAT: float.fromhex("0x1.fffffep127"),
    FieldDescriptor.TYPE_DOUBLE: sys.float_info.max,
}
# Characters of a name that are shown where there is no such: it may be of any length.
_SHOWN = 80
_INT32 = (-(1 << 31), (1 << 31) - 1)
_RANGES = {
    **dict.fromkeys(
        (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SFIXED32),
        _INT32,
    ),
    **dict.fromkeys(
        (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_SFIXED64),
        (-(1 << 63), (1 << 63) - 1),
    ),
    **dict.fromkeys((FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32), (0, (1 << 32) - 1)),
    **dict.fromkeys((FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64), (0, (1 << 64) - 1)),
}


class ShapeError(ValueError):
    """The JSON does not have the message's shape; says where, and what would fit."""


def check_shape(value: Any, descriptor: Descriptor) -> set[str]:
    """Check parsed JSON against a message, before json_format converts it.

    Returns:
        The types of each `Any` in it that the descriptor's pool does not know.

    Raises:
        ShapeError: The JSON does not fit.
    """
    unknown: set[str] = set()
    _check_message(value, descriptor, "", unknown)
    return unknown


def _check_message(value: Any, descriptor: Descriptor, path: str, unknown: set[str]) -> None:
    if descriptor.file.name == _WRAPPERS:
        _check_field(value, descriptor.fields_by_name["value"], path, unknown)
        return
    if descriptor.full_name in _SPECIAL:
        _check_special(value, descriptor, path)
        return
    if not isinstance(value, dict):
        raise _wrong(path, f"expected an object ({descriptor.full_name})", value)
    if descriptor.full_name == "google.protobuf.Any":
        _check_any(value, descriptor, path, unknown)
        return
    fields = _fields(descriptor)
    for name, item in value.items():
        field = fields.get(name)
        if field is not None:
            _check_field(item, field, f"{path}.{name}" if path else name, unknown)
        elif not name.startswith("["):  # `[package.extension]`
            raise ShapeError(f"{_at(path)}{_no_field(name, descriptor)}")


def _check_special(value: Any, descriptor: Descriptor, path: str) -> None:
    """Check types with a form of their own: json_format explains errors well, but not where they are."""
    try:
        json_format.ParseDict(value, message_factory.GetMessageClass(descriptor)())
    except (json_format.Error, TypeError, ValueError, KeyError, AttributeError, RecursionError) as exc:
        raise ShapeError(f"{_at(path)}this is no {descriptor.full_name}: {shortened(str(exc), 500)}") from exc


def _check_any(value: dict[str, Any], descriptor: Descriptor, path: str, unknown: set[str]) -> None:
    if not value:
        return
    url = value.get("@type")
    if not isinstance(url, str):
        raise ShapeError(f'{_at(path)}a google.protobuf.Any needs its "@type"')
    try:
        inner = descriptor.file.pool.FindMessageTypeByName(url.rpartition("/")[2])
    except KeyError:
        unknown.add(url.rpartition("/")[2])
        return
    if inner.full_name in _SPECIAL or inner.file.name == _WRAPPERS or inner.full_name == descriptor.full_name:
        if "value" not in value:
            raise ShapeError(f'{_at(path)}a google.protobuf.Any of {inner.full_name} needs its "value"')
        _check_message(value["value"], inner, f"{path}.value" if path else "value", unknown)
        return
    rest = {name: item for name, item in value.items() if name != "@type"}
    _check_message(rest, inner, path, unknown)


def _check_field(value: Any, field: FieldDescriptor, path: str, unknown: set[str]) -> None:
    if value is None:
        return  # the default
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if not isinstance(value, dict):
            raise _wrong(path, "expected an object (a map)", value)
        key_field, item_field = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        _check_keys(value, key_field, path)
        for key, item in value.items():
            _check_item(item, item_field, f"{path}[{_key(key)}]", unknown)
    elif is_repeated(field):
        if not isinstance(value, list):
            raise _wrong(path, "expected a list", value)
        for index, item in enumerate(value):
            _check_item(item, field, f"{path}[{index}]", unknown)
    else:
        _check_item(value, field, path, unknown)


def _check_keys(value: dict[str, Any], field: FieldDescriptor, path: str) -> None:
    """Check the keys of a map, which JSON has as text: two may be one number."""
    where, seen = f"a key of {path}", dict[int, str]()
    for key in value:
        if field.type in _RANGES:
            _check_whole(key, *_RANGES[field.type], where)
            other = seen.setdefault(int(key), key)
            if other != key:
                raise ShapeError(f"{_at(path)}the keys {_key(other)} and {_key(key)} are the same")
        elif field.type == FieldDescriptor.TYPE_BOOL and key not in ("true", "false"):
            raise _wrong(where, 'expected "true" or "false"', key)
        elif field.type == FieldDescriptor.TYPE_STRING:
            _check_text(key, where)


def is_repeated(field: FieldDescriptor) -> bool:
    """Whether the field is a list or a map."""
    # protobuf before 6.31 has `label` only, and later versions warn about it.
    repeated = getattr(field, "is_repeated", None)
    if repeated is None:
        return getattr(field, "label", None) == FieldDescriptor.LABEL_REPEATED
    return bool(repeated)


def _check_item(value: Any, field: FieldDescriptor, path: str, unknown: set[str]) -> None:
    if field.message_type is not None:
        _check_message(value, field.message_type, path, unknown)
    elif field.enum_type is not None:
        _check_enum(value, field.enum_type, path)
    elif field.type == FieldDescriptor.TYPE_STRING:
        _check_text(value, path)
    elif field.type == FieldDescriptor.TYPE_BYTES and not _is_base64(value):
        raise _wrong(path, "expected a string (bytes in base64)", value)
    elif field.type == FieldDescriptor.TYPE_BOOL and not isinstance(value, bool):
        raise _wrong(path, "expected true or false", value)
    elif field.type in _RANGES:
        _check_whole(value, *_RANGES[field.type], path)
    elif field.type in _LARGEST:
        _check_number(value, _LARGEST[field.type], path)


def _check_text(value: Any, path: str) -> None:
    if not isinstance(value, str):
        raise _wrong(path, "expected a string", value)
    if half := _SURROGATE.search(value):
        raise ShapeError(f"{_at(path)}expected a string, found half of a character ({ascii(half[0])[1:-1]})")


def _check_whole(value: Any, low: int, high: int, path: str) -> None:
    number = value
    if isinstance(value, str):  # the mapping's own form of 64-bit integers
        number = int(value) if _WHOLE.fullmatch(value) else None
    if isinstance(number, bool) or not isinstance(number, int | float) or number != number // 1:
        raise _wrong(path, "expected a whole number", value)
    if not low <= number <= high:
        raise _wrong(path, f"expected a whole number from {low} to {high}", value)


def _check_number(value: Any, largest: float, path: str) -> None:
    if isinstance(value, str):
        if value in _SPECIAL_NUMBERS:
            return
        number = float(value) if _NUMBER.fullmatch(value) else None
    else:
        number = value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise _wrong(path, "expected a number", value)
    if not -largest <= number <= largest:
        raise _wrong(path, f"expected a number from {-largest} to {largest}", value)


def _is_base64(value: Any) -> bool:
    return (
        isinstance(value, str)
        and _BASE64.fullmatch(value) is not None
        and len(value.rstrip("=")) % 4 != 1  # six bits are no byte
    )


def _check_enum(value: Any, enum: EnumDescriptor, path: str) -> None:
    if not isinstance(value, str) or value.lstrip("-").isdigit():
        _check_whole(value, *_INT32, path)
    elif value not in enum.values_by_name:
        names = list(enum.values_by_name)
        hint = f"{did_you_mean(value[:_SHOWN], names)} ({listed(names)})"
        raise ShapeError(f"{_at(path)}{enum.full_name} has no value {excerpt(value, _SHOWN)}{hint}")


def _fields(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    fields = {field.name: field for field in descriptor.fields}
    fields.update({field.json_name: field for field in descriptor.fields})
    return fields


def _no_field(name: str, descriptor: Descriptor) -> str:
    names = [field.json_name for field in descriptor.fields]
    there = f"fields: {listed(names)}" if names else "it has none"
    shown = name[:_SHOWN]
    return f"{descriptor.full_name} has no field {excerpt(shown)}{did_you_mean(shown, names)} ({there})"


def _key(text: str) -> str:
    """A map's key as JSON has it."""
    return json.dumps(shortened(text, _SHOWN))


def _at(path: str) -> str:
    return f"{shortened(path, 500)}: " if path else ""


def _wrong(path: str, expected: str, value: Any) -> ShapeError:
    text = shortened(json.dumps(value, ensure_ascii=False), 40)
    return ShapeError(f"{_at(path)}{expected}, found {text}")
