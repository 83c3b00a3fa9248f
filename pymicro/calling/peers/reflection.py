"""The calling side of server reflection: which services a server has, and their proto files.

https://github.com/grpc/grpc/blob/master/doc/server-reflection.md. It asks for version
v1 first, then for v1alpha: their messages are the same bytes under another name.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, cast

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from pymicro.base.errors import PymicroError
from pymicro.base.printable import shortened
from pymicro.rpc.schema.gaps import defined_types, needed_types
from pymicro.rpc.status import RpcError
from pymicro.rpc.wire.status import from_aio

__all__ = ["NoReflection", "NotReflected", "ReflectionClient", "ReflectionError"]

_METHODS = tuple(f"/grpc.reflection.{v}.ServerReflection/ServerReflectionInfo" for v in ("v1", "v1alpha"))

# Seconds to wait for a server to end its side of the stream.
_END_WAIT = 1.0

# Types of which the file is asked for, since no file that is there defines them.
_MOST_TYPES = 50

_NOT_FOUND: Final = grpc.StatusCode.NOT_FOUND.value[0]


class ReflectionError(PymicroError):
    """The server answers reflection, but its answer is not what was asked for."""


class NoReflection(ReflectionError):
    """The server does not offer reflection at all."""


class NotReflected(ReflectionError):
    """The server's reflection does not know the symbol."""


class ReflectionClient:
    """Asks a server about itself, over any `grpc.aio.Channel`. Holds nothing open between questions.

    Every method raises `ReflectionError`, or `RpcError` if the call itself failed.

    Args:
        channel: The caller closes it. If it balances, each question may be
            answered by another node.
        timeout: Seconds for each method call here; None for no limit.
        metadata: Sent with each question, such as an authorization.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        timeout: float | None = 5.0,
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> None:
        self._channel = channel
        self._timeout = timeout
        self._metadata = tuple(metadata)
        self._version = 0  # index into _METHODS

    async def list_services(self) -> list[str]:
        """Full names of the server's services, sorted; reflection itself and health included."""
        answer = await self._ask(ServerReflectionRequest(list_services=""), self._deadline())
        return sorted(service.name for service in answer.list_services_response.service)

    async def files_containing(self, *symbols: str) -> list[FileDescriptorProto]:
        """The proto files that define `symbols`, and all files these import, each once.

        An import that the server does not have is left out, and so is one that it has
        under another path: the code that links the files knows what to do without.

        Args:
            symbols: Full names of services, methods, messages or enums.

        Raises:
            NotReflected: The server does not know one of them.
        """
        deadline = self._deadline()
        files: dict[str, FileDescriptorProto] = {}
        for symbol in symbols:
            request = ServerReflectionRequest(file_containing_symbol=symbol)
            _read_files(await self._ask(request, deadline), files)
        # Some servers send all imports along, others none. Some have a file under another path than
        # that by which it is imported: it is asked for by what it defines.
        asked: set[str] = set()
        while requests := _missing(files, asked):
            for name, request in requests.items():
                asked.add(name)
                with contextlib.suppress(ReflectionError):
                    _read_files(await self._ask(request, deadline), files)
        return list(files.values())

    def _deadline(self) -> float | None:
        return None if self._timeout is None else asyncio.get_running_loop().time() + self._timeout

    async def _ask(
        self, request: ServerReflectionRequest, deadline: float | None
    ) -> ServerReflectionResponse:
        while True:
            method = _METHODS[self._version]
            try:
                answer = await self._call(method, request, deadline)
                break
            except grpc.aio.AioRpcError as exc:
                if exc.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise exc if isinstance(exc, RpcError) else from_aio(exc, callee=method) from exc
                if method == _METHODS[-1]:
                    raise NoReflection("the server offers no reflection (neither v1 nor v1alpha)") from exc
                self._version += 1
        if answer.HasField("error_response"):
            error = answer.error_response
            what = request.file_containing_symbol or request.file_by_filename or "the list of services"
            if error.error_code == _NOT_FOUND:
                raise NotReflected(f"the server's reflection does not know {shortened(what)}")
            raise ReflectionError(
                f"the server's reflection refuses {shortened(what)}: "
                f"{shortened(error.error_message, 500)} (status {error.error_code})"
            )
        return answer

    async def _call(
        self, method: str, request: ServerReflectionRequest, deadline: float | None
    ) -> ServerReflectionResponse:
        # The method is a stream both ways. One request followed by the half-close is the same on
        # the wire as a unary request. grpc.aio turns any status into INTERNAL that arrives
        # while it is writing to a stream.
        make_call = self._channel.unary_stream(
            method,
            request_serializer=ServerReflectionRequest.SerializeToString,
            response_deserializer=ServerReflectionResponse.FromString,
        )
        left = None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())
        call: Any = make_call(request, timeout=left, metadata=self._metadata or None)
        try:
            answer = await call.read()
            if answer is grpc.aio.EOF:
                raise ReflectionError("the server ended the reflection stream without an answer")
            # The server should see an end, not a cancelled call.
            with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
                async with asyncio.timeout(_END_WAIT):
                    await call.read()
            return cast(ServerReflectionResponse, answer)
        finally:
            call.cancel()  # does nothing to an ended call


def _missing(
    files: Mapping[str, FileDescriptorProto], asked: AbstractSet[str]
) -> dict[str, ServerReflectionRequest]:
    """What to ask for next: imports that are not there; if none is left, types that no file defines."""
    imports = {name for file in files.values() for name in file.dependency} - files.keys() - asked
    if imports:
        return {name: ServerReflectionRequest(file_by_filename=name) for name in sorted(imports)}
    needed = {name for file in files.values() for name in needed_types(file)}
    needed -= {name for file in files.values() for name in defined_types(file)}
    # Everybody has the well-known types.
    wanted = sorted(name for name in needed - asked if not name.startswith("google.protobuf."))
    return {name: ServerReflectionRequest(file_containing_symbol=name) for name in wanted[:_MOST_TYPES]}


def _read_files(answer: ServerReflectionResponse, files: dict[str, FileDescriptorProto]) -> None:
    for serialized in answer.file_descriptor_response.file_descriptor_proto:
        try:
            file = FileDescriptorProto.FromString(serialized)
        except DecodeError as exc:
            raise ReflectionError("the server's reflection sent a proto file that cannot be read") from exc
        files.setdefault(file.name, file)
