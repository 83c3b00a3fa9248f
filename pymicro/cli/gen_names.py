"""The names in protos, and how Python spells them."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymicro.cli.gen_sources import module_of

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import (
        DescriptorProto,
        EnumDescriptorProto,
        FieldDescriptorProto,
        FileDescriptorProto,
        FileDescriptorSet,
    )

__all__ = [
    "Defined",
    "FreeNames",
    "TypeNames",
    "field_number",
    "module_alias",
    "names_inside",
    "names_of_message",
    "names_on_top",
    "sayable",
]


@dataclass(frozen=True, slots=True)
class Defined:
    """A message or an enum.

    Attributes:
        module: The Python module that has it.
        name: Its name in the module, such as `Order.Line`.
    """

    module: str
    name: str

    @property
    def sayable(self) -> bool:
        """Whether code can name it."""
        return sayable(self.module) and sayable(self.name)


class TypeNames(dict[str, Defined]):
    """Each message and enum by its full name in the proto, which begins with a dot."""

    def __init__(self, described: FileDescriptorSet) -> None:
        self._files = {file.name: file for file in described.file}
        self._messages: dict[str, DescriptorProto] = {}
        for file in described.file:
            above = f".{file.package}" if file.package else ""
            self._add(module_of(file.name), file.enum_type, file.message_type, above, "")

    def _add(
        self,
        module: str,
        enums: Iterable[EnumDescriptorProto],
        messages: Iterable[DescriptorProto],
        above: str,
        outer: str,
    ) -> None:
        for enum in enums:
            self[f"{above}.{enum.name}"] = Defined(module, f"{outer}{enum.name}")
        for message in messages:
            full, name = f"{above}.{message.name}", f"{outer}{message.name}"
            self[full] = Defined(module, name)
            self._messages[full] = message
            self._add(module, message.enum_type, message.nested_type, full, f"{name}.")

    def is_message(self, full: str) -> bool:
        """Whether it is a message, and no enum."""
        return full in self._messages

    def message(self, full: str) -> DescriptorProto:
        """The message of this full name."""
        return self._messages[full]

    def passed_on(self, file: FileDescriptorProto) -> dict[str, str]:
        """The module of each name that the code of `file` has because of `import public`.

        As `from … import *` has it: names that begin with an underscore stay behind,
        and the last import of a name wins.
        """
        found: dict[str, str] = {}
        for index in file.public_dependency:
            imported = self._files[file.dependency[index]]
            found.update(self.passed_on(imported))
            found.update(dict.fromkeys(names_on_top(imported), module_of(imported.name)))
        return {name: module for name, module in found.items() if not name.startswith("_")}


def names_on_top(file: FileDescriptorProto) -> list[str]:
    """The names that a file's module has, of what the file itself defines."""
    generic = ("", "_Stub") if file.options.py_generic_services else ()
    return [
        "DESCRIPTOR",
        *_names_in(file.enum_type, file.message_type, file.extension),
        *(f"{service.name}{end}" for service in file.service for end in generic),
    ]


def names_inside(file: FileDescriptorProto) -> set[str]:
    """Every name that some class in a file's module has."""
    found = {value.name for enum in file.enum_type for value in enum.value}
    waiting = list(file.message_type)
    for message in waiting:
        found.update(names_of_message(message))
        waiting.extend(message.nested_type)
    return found


def names_of_message(message: DescriptorProto) -> Iterator[str]:
    """The names in a message's class."""
    yield from _names_in(message.enum_type, message.nested_type, message.extension)
    for field in message.field:
        yield field.name
        yield field_number(field)


def _names_in(
    enums: Iterable[EnumDescriptorProto],
    messages: Iterable[DescriptorProto],
    extensions: Iterable[FieldDescriptorProto],
) -> Iterator[str]:
    for enum in enums:
        yield enum.name
        yield from (value.name for value in enum.value)
    yield from (message.name for message in messages)
    for extension in extensions:
        yield extension.name
        yield field_number(extension)


def field_number(field: FieldDescriptorProto) -> str:
    """The name of the constant with a field's number."""
    return f"{field.name.upper()}_FIELD_NUMBER"


class FreeNames:
    """Finds names that nothing in a module has.

    Args:
        taken: The names that something has.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def find(self, wish: str) -> str:
        """`wish`, with as many underscores behind it as it takes; the answer to a wish is always the same."""
        while wish in self._taken:
            wish += "_"
        return wish


def sayable(dotted: str) -> bool:
    """Whether a class can have it: no part is a keyword, or a name like `__init__`."""
    return not any(
        keyword.iskeyword(part) or (part.startswith("__") and part.endswith("__"))
        for part in dotted.split(".")
    )


def module_alias(module: str) -> str:
    """The name under which generated code imports a module; any two modules have different ones."""
    return "_" + module.replace("_", "__").replace(".", "_dot_")
