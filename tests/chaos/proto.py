"""The service that has to live through all this, its messages and methods; made without protoc.

A node of it starts for each kill, so compiling would cost more than the test.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, MethodOptions

__all__ = ["SERVICE", "Answer", "Order", "call_method"]

PACKAGE = "pymicro.tests.chaos"
# Said of no method: it may not run twice. Said by the proto option or by `@idempotent`: it may.
UNMARKED = MethodOptions.IDEMPOTENCY_UNKNOWN
METHODS = {
    "Plain": UNMARKED,
    "Marked": MethodOptions.IDEMPOTENT,
    "Decorated": UNMARKED,
    "Count": UNMARKED,
    "Collect": UNMARKED,
    "Onward": MethodOptions.IDEMPOTENT,
}
MAY_RUN_TWICE = frozenset({"Marked", "Decorated", "Onward"})


def _file() -> FileDescriptorProto:
    file = FileDescriptorProto(name="pymicro/tests/chaos.proto", package=PACKAGE, syntax="proto3")
    fields = {
        # Which call it is, how long its handler takes, how many messages a stream has.
        "Order": (("call", "STRING"), ("seconds", "DOUBLE"), ("messages", "INT32")),
        "Answer": (("call", "STRING"), ("node", "STRING"), ("number", "INT32")),
    }
    for name, found in fields.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(found, 1):
            message.field.add(
                name=field,
                number=number,
                type=getattr(FieldDescriptorProto, f"TYPE_{kind}"),
                label=FieldDescriptorProto.LABEL_OPTIONAL,
            )
    service = file.service.add(name="Victim")
    for name, level in METHODS.items():
        method = service.method.add(
            name=name,
            input_type=f".{PACKAGE}.Order",
            output_type=f".{PACKAGE}.Answer",
            server_streaming=name == "Count",
            client_streaming=name == "Collect",
        )
        if level != UNMARKED:
            method.options.idempotency_level = level
    return file


_pool = descriptor_pool.Default()
_pool.AddSerializedFile(_file().SerializeToString())

SERVICE = _pool.FindServiceByName(f"{PACKAGE}.Victim")
Order: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.Order"))
Answer: Any = message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.Answer"))


def call_method(channel: Any, method: str) -> Any:
    """What a generated stub would have as `method`."""
    shape = {"Count": channel.unary_stream, "Collect": channel.stream_unary}.get(method, channel.unary_unary)
    return shape(
        f"/{SERVICE.full_name}/{method}",
        request_serializer=Order.SerializeToString,
        response_deserializer=Answer.FromString,
    )
