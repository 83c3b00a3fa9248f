"""From where `pymicro call` learns methods and messages: the server's reflection, or proto files."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError, Message

from pymicro.calling.peers.reflection import NoReflection, ReflectionClient, ReflectionError
from pymicro.cli.reflecting import INFRASTRUCTURE
from pymicro.cli.report import InputError
from pymicro.rpc.schema import (
    Document,
    MethodNotFound,
    ProtoMethod,
    Schema,
    SchemaError,
    UnknownTypes,
    from_json,
    split_method,
    to_json,
)
from pymicro.rpc.status import RpcError

__all__ = ["MessageTypes", "ProtoFiles", "Reflected"]

M = TypeVar("M", bound=Message)


class MessageTypes(ABC):
    """Knows a server's methods and turns its messages into JSON and back."""

    def __init__(self) -> None:
        self._schema = Schema()

    @abstractmethod
    async def find_method(self, text: str) -> ProtoMethod:
        """The method that a person means.

        Raises:
            MethodNotFound: There is none, or more than one.
        """

    @abstractmethod
    async def learn(self, names: frozenset[str]) -> None:
        """Try to find out about message types; types that cannot be found stay unknown."""

    async def read(self, document: Document, kind: type[M]) -> M:
        """The message that a document describes.

        Raises:
            SchemaError: The document does not fit.
        """
        try:
            return from_json(document, kind)
        except UnknownTypes as exc:
            await self.learn(exc.names)
            return from_json(document, kind)

    async def write(self, message: Message) -> Any:
        """The message as JSON; an `Any` of unknown type is given in base64."""
        try:
            return to_json(message)
        except UnknownTypes as exc:
            await self.learn(exc.names)
            return to_json(message, raw_unknown=True)

    async def unpack(self, packed: AnyMessage) -> Message:
        """The content of an `Any` that came with a status; the `Any` itself if its type cannot be found."""
        name = packed.type_url.rpartition("/")[2]
        await self.learn(frozenset([name]))
        try:
            return self._schema.message_class(name).FromString(packed.value)
        except (SchemaError, DecodeError):
            return packed


class Reflected(MessageTypes):
    """Types as the server itself reports them."""

    def __init__(self, reflection: ReflectionClient) -> None:
        super().__init__()
        self._reflection = reflection
        self._asked: set[str] = set()

    async def find_method(self, text: str) -> ProtoMethod:
        """The method, among the server's services."""
        try:
            names = await self._reflection.list_services()
            service, _ = split_method(text)
            likely = [name for name in names if name == service or name.endswith(f".{service}")]
            if likely:
                self._schema.add(await self._reflection.files_containing(*likely))
            else:
                # No service is named, or a wrong one: look at all, if only to find near names.
                await self._ask_each(names)
        except NoReflection as exc:
            raise NoReflection(f"{exc}; name its proto files with --proto") from exc
        except (ReflectionError, SchemaError) as exc:
            raise ReflectionError(f"{exc}; --proto does without reflection") from exc
        with contextlib.suppress(MethodNotFound):
            # The user means a Watch or Check of this server's own, not the one of Health, which all have.
            own = [name for name in names if not name.startswith(INFRASTRUCTURE)]
            return self._schema.find_method(text, own)
        return self._schema.find_method(text, names)

    async def learn(self, names: frozenset[str]) -> None:
        """Ask the server about messages; types it does not know, or cannot be asked about, stay unknown."""
        with contextlib.suppress(RpcError):
            await self._ask_each(names)

    async def _ask_each(self, names: Iterable[str]) -> None:
        for name in set(names) - self._asked:
            self._asked.add(name)
            with contextlib.suppress(ReflectionError, SchemaError):
                self._schema.add(await self._reflection.files_containing(name))


class ProtoFiles(MessageTypes):
    """Types from proto files, compiled by grpcio-tools.

    Args:
        files: As given to protoc.
        folders: Folders in which imports are looked up; each file's own folder if empty.

    Raises:
        InputError: grpcio-tools is missing, or protoc refuses the files (with its words).
    """

    def __init__(self, files: Sequence[str], folders: Sequence[str]) -> None:
        super().__init__()
        self._schema.add(_compile(files, folders).file)

    async def find_method(self, text: str) -> ProtoMethod:
        """The method, among the services in the files."""
        return self._schema.find_method(text)

    async def learn(self, names: frozenset[str]) -> None:
        """Do nothing: the files are all there is to learn."""


def _compile(files: Sequence[str], folders: Sequence[str]) -> FileDescriptorSet:
    if importlib.util.find_spec("grpc_tools") is None:
        raise InputError("--proto needs grpcio-tools: pip install 'pymicro-grpc[tools]'")
    paths = list(folders) or list(dict.fromkeys(os.path.dirname(file) or "." for file in files))
    with tempfile.TemporaryDirectory(prefix="pymicro-") as folder:
        output = Path(folder) / "set.pb"
        # In a separate process, because protoc writes its errors to file descriptor 2. The module
        # adds the folder of google/protobuf/*.proto itself.
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                *(f"--proto_path={path}" for path in paths),
                "--include_imports",
                f"--descriptor_set_out={output}",
                *files,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip() or f"protoc exited with {done.returncode}"
            raise InputError(f"--proto cannot be used:\n{said}")
        return FileDescriptorSet.FromString(output.read_bytes())
