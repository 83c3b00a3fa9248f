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

from pymicro.base.printable import listed
from pymicro.calling.peers.reflection import NoReflection, ReflectionClient, ReflectionError
from pymicro.cli.gen_complaints import first_lines, plainly
from pymicro.cli.reflecting import INFRASTRUCTURE, learn, not_described, tell_gaps
from pymicro.cli.report import InputError, note
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
    to_raw_json,
)
from pymicro.rpc.status import RpcError

__all__ = ["MessageTypes", "ProtoFiles", "Reflected"]

M = TypeVar("M", bound=Message)

# Values of one message that a warning names.
_LISTED = 5


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
        """The message as JSON; what has no JSON form is written as it is, with a warning on stderr."""
        try:
            return to_json(message)
        except UnknownTypes as exc:
            await self.learn(exc.names)
        except SchemaError:
            pass
        document, odd = to_raw_json(message)
        if odd:
            note(f"no JSON form, shown as it is: {listed(odd, _LISTED)}")
        return document

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
            # If no service is named, or a wrong one, look at all, if only to find near names.
            reasons = await self._ask(likely or names)
        except NoReflection as exc:
            raise NoReflection(f"{exc}; name its proto files with --proto") from exc
        except ReflectionError as exc:
            raise ReflectionError(f"{exc}; --proto does without reflection") from exc
        there = {service.full_name for service in self._schema.services()}
        for name in likely:
            if name in reasons and name not in there:
                raise ReflectionError(
                    f"{not_described(name, reasons[name])}; --proto does without reflection"
                )
        tell_gaps(self._schema)
        with contextlib.suppress(MethodNotFound):
            # The user means a Watch or Check of this server's own, not the one of Health, which all have.
            own = [name for name in names if not name.startswith(INFRASTRUCTURE)]
            return self._schema.find_method(text, own)
        return self._schema.find_method(text, names)

    async def learn(self, names: frozenset[str]) -> None:
        """Ask the server about messages; types it does not know, or cannot be asked about, stay unknown."""
        with contextlib.suppress(RpcError, NoReflection):
            await self._ask(names)

    async def _ask(self, names: Iterable[str]) -> dict[str, str]:
        """Learn about names that were not asked for before; for each that is not learnt the reason."""
        new = sorted(set(names) - self._asked)
        self._asked.update(new)
        return await learn(self._schema, self._reflection, new)


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
            said = first_lines(plainly(done.stderr).strip()) or f"protoc exited with {done.returncode}"
            raise InputError(f"--proto cannot be used:\n{said}")
        return FileDescriptorSet.FromString(output.read_bytes())
