"""The types for `_pb2_grpc.py`, which grpcio-tools does not write: for asyncio, exact for each shape."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pymicro.cli.gen_mend import Layout, head_of_types
from pymicro.cli.gen_sources import module_of
from pymicro.cli.report import InputError

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import (
        DescriptorProto,
        FileDescriptorProto,
        FileDescriptorSet,
        MethodDescriptorProto,
        ServiceDescriptorProto,
    )

__all__ = ["TypeNames", "types_of_services"]

_HEAD = """\
from collections.abc import AsyncIterator as _AsyncIterator
from typing import Any as _Any, Protocol as _Protocol

import grpc as _grpc
import grpc.aio as _aio
{imports}
# A grpc.aio.Server, or a Service of pymicro's.
class _Server(_Protocol):
    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: tuple[_grpc.GenericRpcHandler, ...], /
    ) -> None: ...
    def add_registered_method_handlers(
        self, service_name: str, method_handlers: dict[str, _grpc.RpcMethodHandler[_Any, _Any]], /
    ) -> None: ...
"""

_SERVICE = """
class {name}Stub:
    def __init__(self, channel: _aio.Channel) -> None: ...
{calls}
class {name}Servicer:{handlers}

def add_{name}Servicer_to_server(servicer: {name}Servicer, server: _Server) -> None: ...
"""


class TypeNames(dict[str, tuple[str, str]]):
    """For each message, by its full name in the proto: its module, and its name in that."""

    def __init__(self, described: FileDescriptorSet) -> None:
        for file in described.file:
            above = f".{file.package}" if file.package else ""
            for full, name in _messages(file.message_type, above, ""):
                self[full] = module_of(file.name), name


def _messages(found: Iterable[DescriptorProto], above: str, outer: str) -> Iterator[tuple[str, str]]:
    for message in found:
        full, name = f"{above}.{message.name}", f"{outer}{message.name}"
        yield full, name
        yield from _messages(message.nested_type, full, f"{name}.")


def types_of_services(file: FileDescriptorProto, types: TypeNames, layout: Layout) -> str:
    """The `_pb2_grpc.pyi` of a proto that has services.

    Raises:
        InputError: The proto has a name for which grpcio-tools makes no Python.
    """
    for service in file.service:
        called = (service.name, *(method.name for method in service.method))
        ends = (end for method in service.method for end in _ends(method))
        for name in (*called, *(word for end in ends for word in types[end][1].split("."))):
            if keyword.iskeyword(name):
                raise InputError(
                    f"{file.name}: service {service.name}: {name!r} is a keyword of Python's, "
                    "and the code that grpcio-tools makes of it is not valid; it needs another name"
                )
    own = module_of(file.name) + "_grpc"
    used = {name for service in file.service for method in service.method for name in _ends(method)}
    modules = sorted({types[name][0] for name in used if _importable(types[name][0])})
    imports = "".join(f"{layout.statement(own, module, _alias(module))}\n" for module in modules)
    head = _HEAD.format(imports=imports)
    return head_of_types(imports) + head + "".join(_service(service, types) for service in file.service)


def _service(service: ServiceDescriptorProto, types: TypeNames) -> str:
    calls = handlers = ""
    for method in service.method:
        request, response = (_type(name, types) for name in _ends(method))
        shape = "".join(
            "Stream" if streams else "Unary" for streams in (method.client_streaming, method.server_streaming)
        )
        calls += f"    {method.name}: _aio.{shape}MultiCallable[{request}, {response}]\n"
        context = f"_aio.ServicerContext[{request}, {response}]"
        given = (
            f"request_iterator: _AsyncIterator[{request}]"
            if method.client_streaming
            else f"request: {request}"
        )
        returned = f"_AsyncIterator[{response}]" if method.server_streaming else response
        # For the type checker, an asynchronous generator is an ordinary function.
        kind = "def" if method.server_streaming else "async def"
        handlers += f"\n    {kind} {method.name}(self, {given}, context: {context}) -> {returned}: ..."
    return _SERVICE.format(name=service.name, calls=calls, handlers=handlers or " ...")


def _ends(method: MethodDescriptorProto) -> tuple[str, str]:
    return method.input_type, method.output_type


def _type(full: str, types: TypeNames) -> str:
    module, name = types[full]
    if not _importable(module) or not _importable(name):
        return "_Any"
    return f"{_alias(module)}.{name}"


def _importable(dotted: str) -> bool:
    return not any(keyword.iskeyword(part) for part in dotted.split("."))


def _alias(module: str) -> str:
    """protoc's alias, which is different for any two modules."""
    return "_" + module.replace("_", "__").replace(".", "_dot_")
