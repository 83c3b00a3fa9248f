"""Generated servicers, unchanged: given whole or through `add_…Servicer_to_server`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pymicro.base.errors import HandlerMismatch
from pymicro.rpc.grpcio import method_handlers
from pymicro.rpc.idempotent import says_idempotent
from pymicro.rpc.wire.shape import Shape
from pymicro.serving.handlers.fit import fit
from pymicro.serving.handlers.inspection import place_of_class
from pymicro.serving.handlers.mark import is_idempotent
from pymicro.serving.handlers.protos import message_class, rpc_of, service_by_name
from pymicro.serving.handlers.types import HandlerTable, Rpc, RpcHandler, Style

if TYPE_CHECKING:
    import grpc
    from google.protobuf.descriptor import MethodDescriptor

__all__ = ["adopt", "adopt_handler", "tables_of_servicer"]


class _Recorder:
    """Stands in for a server, and records what generated code would register."""

    def __init__(self) -> None:
        self.found: dict[str, Mapping[str, grpc.RpcMethodHandler[Any, Any]]] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        for generic in handlers:
            found = method_handlers(generic)
            if found is not None:
                self.found.setdefault(generic.service_name(), found)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.found[service] = handlers


def tables_of_servicer(obj: object) -> tuple[list[HandlerTable], list[HandlerMismatch]]:
    """A table for each generated servicer among an object's classes; none if there is none."""
    recorder = _Recorder()
    for base in type(obj).__mro__:
        add = _adder(base)
        if add is not None:
            add(obj, recorder)
    tables, mismatches = [], []
    for service, handlers in recorder.found.items():
        table, wrong = adopt(service, handlers, where=place_of_class(type(obj)))
        tables.append(table)
        mismatches += wrong
    return tables, mismatches


def adopt(
    service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]], *, where: str = ""
) -> tuple[HandlerTable, list[HandlerMismatch]]:
    """The table of a service whose methods come as grpc's method handlers."""
    descriptor = service_by_name(service)
    rpcs = descriptor.methods_by_name if descriptor else {}
    methods, mismatches = [], []
    for name, given in handlers.items():
        method, wrong = adopt_handler(f"/{service}/{name}", given, rpcs.get(name))
        mismatches += wrong
        if method is not None:
            methods.append(method)
    if not where:
        where = methods[0].where if methods else service
    return HandlerTable(service, where, tuple(methods), descriptor), mismatches


def adopt_handler(
    path: str, given: grpc.RpcMethodHandler[Any, Any], descriptor: MethodDescriptor | None = None
) -> tuple[RpcHandler | None, list[HandlerMismatch]]:
    """One of grpc's method handlers as an `RpcHandler`."""
    shape = Shape.of(bool(given.request_streaming), bool(given.response_streaming))
    known = Rpc(path, shape, descriptor=descriptor)
    # A handler with serializers of its own may take and answer other types than the proto's messages.
    if descriptor and getattr(given.request_deserializer, "__self__", None) is message_class(
        descriptor.input_type
    ):
        known = replace(rpc_of(descriptor), shape=shape)
    function: Callable[..., Any] = getattr(given, shape.value)
    label = getattr(function, "__qualname__", repr(function))
    style, seen, mismatches = fit(function, known, label, writers=True)
    if _is_generated(function):
        style, mismatches = Style.UNIMPLEMENTED, []
    if style is None or mismatches:
        return None, mismatches
    method = RpcHandler(
        rpc=known,
        style=style,
        function=function,
        takes_context=seen.arity == 2,
        where=seen.where,
        label=label,
        deserialize=given.request_deserializer or _as_it_is,
        serialize=given.response_serializer or _as_it_is,
        idempotent=says_idempotent(descriptor) or is_idempotent(function),
    )
    return method, []


def _adder(cls: type) -> Callable[[object, Any], None] | None:
    """`add_GreeterServicer_to_server` for a generated class GreeterServicer; None for any other class.

    A user's class may have the same name, in a module that imports the function. So
    the function must be of the class's own module.
    """
    module = sys.modules.get(cls.__module__)
    found = getattr(module, f"add_{cls.__name__}_to_server", None)
    return found if callable(found) and getattr(found, "__module__", None) == cls.__module__ else None


def _is_generated(function: Callable[..., Any]) -> bool:
    """Whether this is the generated servicer's own method, which the user did not override.

    The function itself is looked for in the generated classes. Its names prove nothing:
    a user's class may be called the same, and functools.wraps copies them.
    """
    inner = getattr(function, "__func__", None)
    classes = type(getattr(function, "__self__", None)).__mro__
    return inner is not None and any(
        inner is own for cls in classes if _adder(cls) for own in vars(cls).values()
    )


def _as_it_is(value: Any) -> Any:
    return value
