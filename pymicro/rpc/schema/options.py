"""Options of proto definitions, in the form of proto source."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import Message
from google.protobuf.text_encoding import CEscape
from google.protobuf.unknown_fields import UnknownFieldSet

__all__ = ["bracketed", "edition_text", "quoted", "settings", "statements", "unknown"]

# Options that the parser did not resolve, and the one that a `map<…>` field implies.
_SKIPPED = ("uninterpreted_option", "map_entry")

# The number of FileDescriptorProto.edition.
_EDITION = 14

Shorten = Callable[[str], str]


def settings(options: Message, shorten: Shorten) -> list[str]:
    """Each option as `name = value` on one line, as in the brackets after a field.

    Args:
        options: Of a class that knows the extensions.
        shorten: Turns an extension's full name into the name to write.
    """
    return [f"{name} = {_literal(field, value)}" for name, field, value in _given(options, shorten)]


def statements(options: Message, shorten: Shorten) -> list[str]:
    """Each option as a statement; a message is written over several lines."""
    lines = []
    for name, field, value in _given(options, shorten):
        lines += f"option {name} = {_literal(field, value, one_line=False)};".split("\n")
    return [*unknown(options), *lines]


def unknown(options: Message) -> list[str]:
    """A comment for each option whose definition is missing."""
    # The class knows less than the sender: it keeps such fields without a name.
    fields: Any = UnknownFieldSet(options)
    numbers = sorted({field.field_number for field in fields})
    return [f"// option {number} is set, and its definition not known" for number in numbers]


def bracketed(written: list[str]) -> str:
    """` [a = 1, b = 2]`, or nothing."""
    return f" [{', '.join(written)}]" if written else ""


def quoted(text: str) -> str:
    """A string literal."""
    return f'"{CEscape(text.encode(), as_utf8=True)}"'


def _given(options: Message, shorten: Shorten, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for field, value in options.ListFields():
        if not field.is_extension and field.name in _SKIPPED:
            continue
        name = prefix + (f"({shorten(field.full_name)})" if field.is_extension else field.name)
        if field.full_name.endswith("Options.features"):
            # Proto source always writes these one by one: `features.field_presence = IMPLICIT`.
            yield from _given(value, shorten, "features.")
        elif isinstance(value, str | bytes | Message) or not hasattr(value, "__len__"):
            yield name, field, value
        else:
            for item in value:
                yield name, field, item


def _literal(field: Any, value: Any, *, one_line: bool = True) -> str:
    if isinstance(value, Message) and not value.ListFields():
        return "{}"
    out = io.StringIO()
    text_format.PrintFieldValue(field, value, out, as_utf8=True, as_one_line=one_line)
    return out.getvalue().strip()


def edition_text(file: Any) -> str:
    """The edition of a proto file; the number of one that is newer than this protobuf."""
    # A number that has no name here is an unknown field.
    fields: Any = UnknownFieldSet(file)
    newer = [field.data for field in fields if field.field_number == _EDITION]
    field = file.DESCRIPTOR.fields_by_name["edition"]
    return str(newer[-1]) if newer else _literal(field, file.edition).removeprefix("EDITION_")
