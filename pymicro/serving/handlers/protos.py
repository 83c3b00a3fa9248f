"""Finding proto services and their message classes in generated modules and descriptors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from pymicro.rpc.wire.shape import Shape
from pymicro.serving.handlers.types import Rpc

__all__ = [
    "did_you_mean",
    "message_class",
    "normal",
    "rpc_of",
    "service_by_name",
    "services_in",
]


def normal(name: str) -> str:
    """The name with case and underscores dropped: `say_hello` and `SayHello` are one."""
    return name.replace("_", "").lower()


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """`did you mean SayHello?` for the nearest candidate, or nothing."""
    by_normal = {normal(candidate): candidate for candidate in candidates}
    near = difflib.get_close_matches(normal(word), by_normal, n=1, cutoff=0.6)
    return f"did you mean {by_normal[near[0]]}?" if near else ""


def services_in(source: Any) -> list[ServiceDescriptor] | None:
    """The services of a generated module, a file's descriptor or a service's; None if it is none of these."""
    if isinstance(source, ServiceDescriptor):
        return [source]
    file = source if isinstance(source, FileDescriptor) else getattr(source, "DESCRIPTOR", None)
    if not isinstance(source, ModuleType | FileDescriptor) or not isinstance(file, FileDescriptor):
        return None
    return list(file.services_by_name.values())


def service_by_name(full_name: str) -> ServiceDescriptor | None:
    """The service in protobuf's default pool, where generated modules put theirs."""
    try:
        return descriptor_pool.Default().FindServiceByName(full_name)
    except KeyError:
        return None


def message_class(descriptor: Descriptor) -> type[Message]:
    """The class of a message; the generated one where there is one."""
    return GetMessageClass(descriptor)


def rpc_of(method: MethodDescriptor) -> Rpc:
    """What a descriptor says of one method."""
    return Rpc(
        path=f"/{method.containing_service.full_name}/{method.name}",
        shape=Shape.of(method.client_streaming, method.server_streaming),
        request_type=message_class(method.input_type),
        response_type=message_class(method.output_type),
        descriptor=method,
    )
