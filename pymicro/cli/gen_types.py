"""The types for `_pb2.py`, written from descriptors.

protoc writes such files too, but a field or a message inside a message that is
called like a type hides that type there, and strict mypy refuses several of its forms.
Here a name that something hides is not used: the type has another one in the module.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from pymicro.cli.gen_mend import Layout, head_of_types
from pymicro.cli.gen_names import (
    FreeNames,
    TypeNames,
    field_number,
    module_alias,
    names_inside,
    names_of_message,
    names_on_top,
    sayable,
)
from pymicro.cli.gen_sources import module_of

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import (
        DescriptorProto,
        EnumDescriptorProto,
        FieldDescriptorProto,
        FileDescriptorProto,
    )

__all__ = ["types_of_messages"]

_HELPERS = {
    "_Any": "from typing import Any as {}",
    "_ClassVar": "from typing import ClassVar as {}",
    "_Iterable": "from collections.abc import Iterable as {}",
    "_Mapping": "from collections.abc import Mapping as {}",
    "_containers": "from google.protobuf.internal import containers as {}",
    "_datetime": "import datetime as {}",
    "_descriptor": "from google.protobuf import descriptor as {}",
    "_enum_type_wrapper": "from google.protobuf.internal import enum_type_wrapper as {}",
    "_message": "from google.protobuf import message as {}",
}

# What messages take for a field of a well-known type, besides its own class.
_ALSO_TAKEN = {".google.protobuf.Timestamp": "datetime", ".google.protobuf.Duration": "timedelta"}

# Numbers of types and labels, from descriptor.proto.
_SCALARS = {
    1: "float",
    2: "float",
    **dict.fromkeys((3, 4, 5, 6, 7, 13, 15, 16, 17, 18), "int"),
    8: "bool",
    9: "str",
    12: "bytes",
}
_MESSAGES = (10, 11)  # the first is a group
_ENUM = 14
_REPEATED = 3


def types_of_messages(file: FileDescriptorProto, types: TypeNames, layout: Layout) -> str:
    """The `_pb2.pyi` of a proto."""
    return _TypeWriter(file, types, layout).text()


class _TypeWriter:
    """Writes the types of one file."""

    def __init__(self, file: FileDescriptorProto, types: TypeNames, layout: Layout) -> None:
        self._file = file
        self._types = types
        self._layout = layout
        self._module = module_of(file.name)
        self._above = f".{file.package}" if file.package else ""
        self._inside = names_inside(file)
        own = set(names_on_top(file))
        self._passed_on = {name: at for name, at in types.passed_on(file).items() if name not in own}
        self._free = FreeNames({*self._inside, *own, *self._passed_on})
        self._imports: set[str] = set()
        self._aliases: dict[str, str] = {}
        self._overrides = False

    def text(self) -> str:
        """The whole file."""
        file = self._file
        generic = ("", "_Stub") if file.options.py_generic_services else ()
        body = [
            f"DESCRIPTOR: {self._helper('_descriptor')}.FileDescriptor",
            *self._values(file.enum_type, self._above),
            *self._extensions(file.extension, self._builtin("int")),
            *(
                f"{service.name}{end}: {self._helper('_Any')}"
                for service in file.service
                for end in generic
                if sayable(service.name + end)
            ),
            *(line for enum in file.enum_type for line in self._enum(enum, self._above)),
            *(line for message in file.message_type for line in self._message(message, self._above)),
        ]
        aliases = [f"{alias} = {name}" for name, alias in sorted(self._aliases.items())]
        passed_on = [
            self._layout.from_module(self._module, module, f"{name} as {name}")
            for name, module in self._passed_on.items()
            if sayable(module) and sayable(name)
        ]
        imports = "\n".join([*sorted(self._imports), *passed_on])
        text = "\n".join([imports, "", *body, *([""] if aliases else []), *aliases, ""])
        return head_of_types(imports, overrides=self._overrides) + text

    # How things are called.

    def _helper(self, name: str) -> str:
        free = self._free.find(name)
        self._imports.add(_HELPERS[name].format(free))
        return free

    def _builtin(self, name: str) -> str:
        if self._free.find(name) == name:
            return name
        free = self._free.find(f"_{name}")
        self._imports.add(f"from builtins import {name} as {free}")
        return free

    def _defined(self, full: str) -> str:
        """A message or an enum."""
        found = self._types[full]
        if not found.sayable:
            return self._helper("_Any")
        if found.module != self._module:
            alias = self._free.find(module_alias(found.module))
            self._imports.add(self._layout.typed(self._module, found.module, alias))
            return f"{alias}.{found.name}{self._end(full, found.module)}"
        first, dot, rest = found.name.partition(".")
        # mypy takes a built-in class for a class of that name which comes later in the file.
        if first in self._inside or hasattr(builtins, first):
            self._aliases[first] = self._free.find(f"_{first}_type")
        return f"{self._aliases.get(first, first)}{dot}{rest}"

    def _end(self, full: str, module: str) -> str:
        """What the name of a type of another module ends with."""
        # types-protobuf has two classes for an enum: what has the values' names, and what they are.
        typed_by_others = module.startswith("google.protobuf.") and module not in self._layout.local
        return ".ValueType" if typed_by_others and not self._types.is_message(full) else ""

    # The type of a field.

    def _value(self, field: FieldDescriptorProto) -> str:
        """One value, as it is read."""
        return self._defined(field.type_name) if field.type_name else self._builtin(_SCALARS[field.type])

    def _given(self, field: FieldDescriptorProto) -> str:
        """One value, as it may be given."""
        value = self._value(field)
        if field.type == _ENUM:
            return f"{value} | {self._builtin('str')}"
        if field.type not in _MESSAGES:
            return value
        if also := _ALSO_TAKEN.get(field.type_name):
            value = f"{self._helper('_datetime')}.{also} | {value}"
        return f"{value} | {self._helper('_Mapping')}[{self._builtin('str')}, {self._builtin('object')}]"

    def _entry(self, field: FieldDescriptorProto) -> tuple[FieldDescriptorProto, FieldDescriptorProto] | None:
        """Key and value of a map; None for other fields."""
        descriptor = self._types.message(field.type_name) if field.type in _MESSAGES else None
        if descriptor is None or not descriptor.options.map_entry:
            return None
        key, value = descriptor.field
        return key, value

    def _field(self, field: FieldDescriptorProto) -> str:
        """The whole field, as it is read."""
        if field.label != _REPEATED:
            return self._value(field)
        containers = self._helper("_containers")
        if entry := self._entry(field):
            key, value = entry
            kind = "MessageMap" if value.type in _MESSAGES else "ScalarMap"
            return f"{containers}.{kind}[{self._value(key)}, {self._value(value)}]"
        kind = "Composite" if field.type in _MESSAGES else "Scalar"
        return f"{containers}.Repeated{kind}FieldContainer[{self._value(field)}]"

    def _argument(self, field: FieldDescriptorProto) -> str:
        """The whole field, as it may be given."""
        if entry := self._entry(field):
            key, value = entry
            return f"{self._helper('_Mapping')}[{self._value(key)}, {self._value(value)}]"
        given = self._given(field)
        return f"{self._helper('_Iterable')}[{given}]" if field.label == _REPEATED else given

    # The lines of each thing.

    def _enum(self, enum: EnumDescriptorProto, above: str) -> Iterator[str]:
        if not sayable(enum.name):
            return
        values = [value.name for value in enum.value if sayable(value.name)]
        self._overrides |= not _of_ints().isdisjoint(values)
        metaclass = f"{self._helper('_enum_type_wrapper')}.EnumTypeWrapper"
        kind = f"{self._helper('_ClassVar')}[{self._defined(f'{above}.{enum.name}')}]"
        yield ""
        yield f"class {enum.name}({self._builtin('int')}, metaclass={metaclass}):"
        yield "    __slots__ = ()"
        yield from (f"    {value}: {kind}" for value in values)

    def _values(self, enums: Iterable[EnumDescriptorProto], above: str) -> Iterator[str]:
        """The values of enums, as they stand beside these."""
        for enum in enums:
            kind = self._defined(f"{above}.{enum.name}")
            yield from (f"{value.name}: {kind}" for value in enum.value if sayable(value.name))

    def _extensions(self, extensions: Iterable[FieldDescriptorProto], number: str) -> Iterator[str]:
        for extension in extensions:
            yield f"{field_number(extension)}: {number}"
            if sayable(extension.name):
                yield f"{extension.name}: {self._helper('_descriptor')}.FieldDescriptor"

    def _message(self, message: DescriptorProto, above: str) -> Iterator[str]:
        if not sayable(message.name):
            return
        full = f"{above}.{message.name}"
        fields = [field for field in message.field if sayable(field.name)]
        self._overrides |= not _of_messages().isdisjoint(names_of_message(message))
        yield ""
        yield f"class {message.name}({self._helper('_message')}.Message):"
        slots = ", ".join(f'"{field.name}"' for field in fields)
        yield f"    __slots__ = ({slots}{',' if len(fields) == 1 else ''})"
        if message.extension_range and "Extensions" not in (field.name for field in fields):
            # types-protobuf has no name for the type of this.
            yield f"    Extensions: {self._helper('_Any')}"
        number = f"{self._helper('_ClassVar')}[{self._builtin('int')}]"
        for line in (
            *(line for enum in message.enum_type for line in self._enum(enum, full)),
            *(line for nested in message.nested_type for line in self._message(nested, full)),
            *self._values(message.enum_type, full),
            *self._extensions(message.extension, number),
            # Two fields may differ in case only.
            *(f"{name}: {number}" for name in dict.fromkeys(map(field_number, message.field))),
            *(f"{field.name}: {self._field(field)}" for field in fields),
            self._init(fields, whole=len(fields) == len(message.field)),
        ):
            yield f"    {line}" if line else ""

    def _init(self, fields: Sequence[FieldDescriptorProto], *, whole: bool) -> str:
        given = [f"{field.name}: {self._argument(field)} | None = ..." for field in fields]
        # A field whose name is a keyword can only be given by `**`.
        more = [] if whole else [f"**{self._free.find('kwargs')}: {self._builtin('object')}"]
        arguments = [self._free.find("self"), *(["*"] if given else []), *given, *more]
        return f"def __init__({', '.join(arguments)}) -> None: ..."


@cache
def _of_messages() -> frozenset[str]:
    """What every message has: a field of such a name changes its type."""
    from google.protobuf.message import Message

    return frozenset(dir(Message))


@cache
def _of_ints() -> frozenset[str]:
    return frozenset(dir(int))
