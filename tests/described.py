"""A server that is nothing but reflection, of proto files with their comments.

async with DescribedServer(files, ["text.v1.Reader"]) as server:
    server.address
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_reflection.v1alpha import reflection_pb2 as pb

from pymicro.rpc.schema import Symbols


def compile_protos(
    source: Path, output: Path, names: Sequence[str], *, comments: bool
) -> dict[str, FileDescriptorProto]:
    """The descriptors of proto files and of all they import, by name."""
    argv = [sys.executable, "-m", "grpc_tools.protoc", f"-I{source}", "--include_imports"]
    argv += [f"--descriptor_set_out={output}", *(["--include_source_info"] if comments else []), *names]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {file.name: file for file in FileDescriptorSet.FromString(output.read_bytes()).file}


class Reflection:
    """What a server answers about itself.

    Args:
        files: What is described.
        services: Names that are listed, described or not.
    """

    def __init__(self, files: Iterable[FileDescriptorProto], services: Sequence[str]) -> None:
        self._files = {file.name: file for file in files}
        self._symbols = Symbols(self._files.values())
        self._services = services

    def handlers(self) -> grpc.GenericRpcHandler:
        """The handlers of reflection v1."""
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=pb.ServerReflectionRequest.FromString,
            response_serializer=pb.ServerReflectionResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(
            "grpc.reflection.v1.ServerReflection", {"ServerReflectionInfo": handler}
        )

    async def _serve(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield self._answer(request)

    def _answer(self, request: Any) -> Any:
        if request.HasField("list_services"):
            listed = [{"name": name} for name in self._services]
            return pb.ServerReflectionResponse(list_services_response={"service": listed})
        symbol = self._symbols.get(request.file_containing_symbol)
        file = symbol.file if symbol is not None else self._files.get(request.file_by_filename)
        if file is None:
            return pb.ServerReflectionResponse(error_response={"error_code": 5, "error_message": "no"})
        sent = [file.SerializeToString()]
        return pb.ServerReflectionResponse(file_descriptor_response={"file_descriptor_proto": sent})


class DescribedServer:
    """Answers reflection (v1) and nothing else.

    Args:
        files: What is described.
        services: Names that are listed, described or not.
    """

    def __init__(self, files: Iterable[FileDescriptorProto], services: Sequence[str]) -> None:
        self.address = ""
        self._reflection = Reflection(files, services)
        self._server = grpc.aio.server()

    async def __aenter__(self) -> Self:
        self._server.add_generic_rpc_handlers((self._reflection.handlers(),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._server.stop(0)
