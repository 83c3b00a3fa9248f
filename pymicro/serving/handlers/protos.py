"""Finding proto services and their message classes in generated modules and descriptors."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from pymicro.base.suggest import nearest
from pymicro.rpc.wire.shape import Shape
from pymicro.serving.handlers.types import Rpc

__all__ = [
    "message_class",
    "normal",
    "rpc_of",
    "service_by_name",
    "services_in",
    "suggested",
]


def normal(name: str) -> str:
    """The name without case and underscores: `say_hello` and `SayHello` are the same."""
    return name.replace("_", "").lower()


def suggested(word: str, names: Iterable[str]) -> str:
    """`did you mean SayHello?` for the nearest name of the proto; empty if none is near."""
    near = nearest(word, names, normal)
    return f"did you mean {near}?" if near else ""


def services_in(source: Any) -> list[ServiceDescriptor] | None:
    """The services of a generated module, a file's descriptor or a service's; None for anything else."""
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
    """The class of a message; the generated one if there is one."""
    return GetMessageClass(descriptor)


def rpc_of(method: MethodDescriptor) -> Rpc:
    """The facts of one method, from its descriptor."""
    return Rpc(
        path=f"/{method.containing_service.full_name}/{method.name}",
        shape=Shape.of(method.client_streaming, method.server_streaming),
        request_type=message_class(method.input_type),
        response_type=message_class(method.output_type),
        descriptor=method,
    )
