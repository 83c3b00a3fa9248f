"""Endpoints of the registry record, from descriptors, in go-micro's form.

Names and types are those of the Go structs that protoc-gen-go makes of the same proto, as
go-micro v1.18.0 writes them (`server/grpc/extractor.go`). We add what Go's reflection
loses: what maps, oneofs and repeated messages hold, and what streams carry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from google.protobuf.descriptor import FieldDescriptor

from pymicro.nodes.node import Endpoint, Value
from pymicro.rpc.schema.shape import is_repeated

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, EnumDescriptor

    from pymicro.serving.handlers.types import HandlerTable

__all__ = ["endpoints_of"]

# How deep nested fields are described: go-micro's own limit, as messages may contain themselves.
_DEPTH = 2

_SCALARS = {
    FieldDescriptor.TYPE_DOUBLE: "float64",
    FieldDescriptor.TYPE_FLOAT: "float32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_FIXED64: "uint64",
    FieldDescriptor.TYPE_FIXED32: "uint32",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "[]uint8",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_SFIXED32: "int32",
    FieldDescriptor.TYPE_SFIXED64: "int64",
    FieldDescriptor.TYPE_SINT32: "int32",
    FieldDescriptor.TYPE_SINT64: "int64",
}


def endpoints_of(tables: Iterable[HandlerTable]) -> tuple[Endpoint, ...]:
    """One endpoint for each served method; without schemas if no descriptor is known."""
    found = []
    for table in tables:
        service = table.service.rpartition(".")[2]
        for method in table.methods:
            rpc = method.rpc
            streams = rpc.shape.request_streaming or rpc.shape.response_streaming
            descriptor = rpc.descriptor
            found.append(
                Endpoint(
                    name=f"{service}.{rpc.path.rpartition('/')[2]}",
                    request=_message(descriptor.input_type) if descriptor else None,
                    response=_message(descriptor.output_type) if descriptor else None,
                    metadata={
                        **({"stream": "true"} if streams else {}),
                        # Our own pair. go-micro takes any pairs here and reads only its own.
                        **({"idempotent": "true"} if method.idempotent else {}),
                    },
                )
            )
    return tuple(found)


def _message(descriptor: Descriptor, name: str = "", depth: int = 0) -> Value:
    fields = () if depth == _DEPTH else tuple(_field(field, depth + 1) for field in descriptor.fields)
    type_name = _go_name(descriptor)
    return Value(name or type_name, type_name, fields)


def _field(field: FieldDescriptor, depth: int) -> Value:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, value = message.fields_by_name["key"], message.fields_by_name["value"]
        return Value(field.name, f"map[{_type(key)}]{_type(value)}")
    if is_repeated(field):
        inner = _message(message, depth=depth).values if message is not None else ()
        return Value(field.name, f"[]{_type(field)}", inner)
    return _message(message, field.name, depth) if message is not None else Value(field.name, _type(field))


def _type(field: FieldDescriptor) -> str:
    named = field.message_type or field.enum_type
    return _go_name(named) if named is not None else _SCALARS[field.type]


def _go_name(descriptor: Descriptor | EnumDescriptor) -> str:
    """`Order_LineItem` for the message `line_item` in `Order`."""
    name = re.sub(r"(?:^|_)([a-z])", lambda match: match[1].upper(), descriptor.name)
    outer = descriptor.containing_type
    return f"{_go_name(outer)}_{name}" if outer is not None else name
