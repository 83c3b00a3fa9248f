"""The types of `_pb2_grpc.py`, which grpcio-tools does not write: for each shape, with async and without."""

from __future__ import annotations

import keyword
from typing import TYPE_CHECKING

from pymicro.base.printable import excerpt
from pymicro.cli.gen_mend import Layout, head_of_types
from pymicro.cli.gen_names import FreeNames, TypeNames, module_alias, sayable
from pymicro.cli.gen_sources import module_of
from pymicro.cli.report import InputError

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import (
        FileDescriptorProto,
        MethodDescriptorProto,
        ServiceDescriptorProto,
    )

__all__ = ["types_of_services"]

_HEAD = """\
from collections.abc import AsyncIterator as {AsyncIterator}
from typing import Any as {Any}, Protocol as _Protocol, overload as {overload}

import grpc as {grpc}
import grpc.aio as {aio}
{imports}
# A grpc.aio.Server, or a Service of pymicro's.
class {Server}(_Protocol):
    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: tuple[{grpc}.GenericRpcHandler, ...], /
    ) -> None: ...
    def add_registered_method_handlers(
        self, service_name: str, method_handlers: dict[str, {grpc}.RpcMethodHandler[{Any}, {Any}]], /
    ) -> None: ...
"""
_NAMES = ("AsyncIterator", "Any", "Server", "aio", "grpc", "overload")

_SERVICE = """
class {name}Stub:
    @{overload}
    def __new__(cls, channel: {aio}.Channel) -> {name}Stub: ...
    @{overload}
    def __new__(cls, channel: {grpc}.Channel) -> {name}StubSync: ...
{calls}
# For type checkers only: a {name}Stub on a channel without async.
class {name}StubSync({name}Stub):
{sync_calls}
class {name}Servicer:{handlers}

def add_{name}Servicer_to_server(servicer: {name}Servicer, server: {Server}) -> None: ...
"""


def types_of_services(file: FileDescriptorProto, types: TypeNames, layout: Layout) -> str:
    """The `_pb2_grpc.pyi` of a proto that has services.

    Raises:
        InputError: The proto has a name for which grpcio-tools makes no Python.
    """
    for service in file.service:
        called = (service.name, *(method.name for method in service.method))
        ends = (end for method in service.method for end in _ends(method))
        for name in (*called, *(word for end in ends for word in types[end].name.split("."))):
            if keyword.iskeyword(name):
                raise InputError(
                    f"{file.name}: service {service.name}: {excerpt(name)} is a keyword of Python's, "
                    "and the code that grpcio-tools makes of it is not valid; it needs another name"
                )
    return _StubWriter(file, types, layout).text()


class _StubWriter:
    """Writes the types of one file's services. No name that it uses is the name of a method."""

    def __init__(self, file: FileDescriptorProto, types: TypeNames, layout: Layout) -> None:
        self._file = file
        self._types = types
        self._layout = layout
        self._free = FreeNames(method.name for service in file.service for method in service.method)
        self._names = {name: self._free.find(f"_{name}") for name in _NAMES}

    def text(self) -> str:
        """The whole file."""
        own = module_of(self._file.name) + "_grpc"
        ends = {end for service in self._file.service for method in service.method for end in _ends(method)}
        modules = sorted({self._types[end].module for end in ends if sayable(self._types[end].module)})
        imports = "".join(f"{self._layout.typed(own, name, self._alias(name))}\n" for name in modules)
        head = _HEAD.format(imports=imports, **self._names)
        return head_of_types(imports) + head + "".join(map(self._service, self._file.service))

    def _service(self, service: ServiceDescriptorProto) -> str:
        calls = sync_calls = handlers = ""
        aio, stream = self._names["aio"], self._names["AsyncIterator"]
        for method in service.method:
            request, response = map(self._type, _ends(method))
            shape = "".join(
                "Stream" if streams else "Unary"
                for streams in (method.client_streaming, method.server_streaming)
            )
            calls += f"    {method.name}: {aio}.{shape}MultiCallable[{request}, {response}]\n"
            sync = f"{self._names['grpc']}.{shape}MultiCallable[{request}, {response}]"
            sync_calls += f"    {method.name}: {sync}  # type: ignore[assignment]\n"
            context = f"{aio}.ServicerContext[{request}, {response}]"
            given = (
                f"request_iterator: {stream}[{request}]" if method.client_streaming else f"request: {request}"
            )
            returned = f"{stream}[{response}]" if method.server_streaming else response
            # For the type checker, an asynchronous generator is an ordinary function.
            kind = "def" if method.server_streaming else "async def"
            handlers += f"\n    {kind} {method.name}(self, {given}, context: {context}) -> {returned}: ..."
        # A service may have no method.
        return _SERVICE.format(
            name=service.name,
            calls=calls,
            sync_calls=sync_calls or "    ...\n",
            handlers=handlers or " ...",
            **self._names,
        )

    def _type(self, full: str) -> str:
        found = self._types[full]
        return f"{self._alias(found.module)}.{found.name}" if found.sayable else self._names["Any"]

    def _alias(self, module: str) -> str:
        return self._free.find(module_alias(module))


def _ends(method: MethodDescriptorProto) -> tuple[str, str]:
    return method.input_type, method.output_type
