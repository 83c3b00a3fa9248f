"""A set of proto files gathered at run time, which finds services and methods in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import Message

from pymicro.base.errors import PymicroError
from pymicro.base.printable import excerpt, listed, shortened
from pymicro.base.suggest import nearest
from pymicro.rpc.schema.gaps import defined_types, is_text, needed_types, placeholders, without_gaps

__all__ = ["MethodNotFound", "ProtoMethod", "Schema", "SchemaError", "nearest_name", "split_method"]


class SchemaError(PymicroError):
    """Proto files, a method's name or a message's JSON do not fit together."""


class MethodNotFound(SchemaError):
    """No service or method has that name, or more than one has."""


@dataclass(frozen=True, slots=True)
class ProtoMethod:
    """One RPC method with its message classes.

    Attributes:
        descriptor: The method's descriptor, from the proto.
        request: Class of the request messages.
        response: Class of the response messages.
    """

    descriptor: MethodDescriptor
    request: type[Message]
    response: type[Message]

    @property
    def name(self) -> str:
        """`greeter.v1.Greeter.SayHello`."""
        return self.descriptor.full_name

    @property
    def path(self) -> str:
        """`/greeter.v1.Greeter/SayHello`, as on the wire."""
        return f"/{self.descriptor.containing_service.full_name}/{self.descriptor.name}"

    @property
    def client_streaming(self) -> bool:
        """Whether the method takes a stream of requests."""
        return self.descriptor.client_streaming

    @property
    def server_streaming(self) -> bool:
        """Whether the method returns a stream of responses."""
        return self.descriptor.server_streaming


class Schema:
    """Proto files in a private pool, so that they clash with no generated code.

    Add files as they become known; earlier results stay valid.

    Attributes:
        gaps: A line for each file that uses types which no file defines: it has empty ones.
    """

    def __init__(self) -> None:
        self.gaps: list[str] = []
        self._wrong: dict[str, str] = {}
        self._pool = descriptor_pool.DescriptorPool()
        self._files: dict[str, FileDescriptor] = {}
        self._protos: dict[str, FileDescriptorProto] = {}

    def add(self, files: Iterable[FileDescriptorProto]) -> None:
        """Add proto files in any order; skip one whose name is known.

        Imports of google's own files may be missing if their Python package is
        installed (the well-known types always are). Another import may be missing,
        or have another path: a type that nobody defines becomes an empty one, and
        `gaps` tells it.

        Raises:
            SchemaError: A file cannot be linked; it is not added. Its neighbours are.
        """
        given = {file.name: file for file in files}
        failed: list[SchemaError] = []
        for name in list(given):
            try:
                self._add(name, given, importer="")
            except SchemaError as exc:
                failed.append(exc)
        if failed:
            raise failed[0]

    def _add(self, name: str, given: dict[str, FileDescriptorProto], importer: str) -> None:
        if name in self._files:
            return
        if isinstance(name, bytes):  # as protobuf gives what is no UTF-8
            raise SchemaError(f"a file is named by what is no text: {excerpt(name)}")
        if name in self._wrong:
            raise SchemaError(self._wrong[name])
        file = given.pop(name, None) or _installed(name)
        if file is None:
            raise SchemaError(f"{shortened(importer)} imports {shortened(name)}, which is not to be had")
        try:
            self._link(file, given)
        except SchemaError as exc:
            self._wrong[name] = str(exc)
            raise

    def _link(self, file: FileDescriptorProto, given: dict[str, FileDescriptorProto]) -> None:
        """Add a file, and before it those that it imports."""
        if not is_text(file):
            raise SchemaError(f"{shortened(file.name)} cannot be used: it has names that are no text")
        had, reasons = [], []
        for imported in file.dependency:
            try:
                self._add(imported, given, importer=file.name)
                had.append(imported)
            except SchemaError as exc:
                reasons.append(str(exc))
        if not reasons and self._accepts(file) is None:
            self._protos[file.name] = file
            return
        unknown: dict[str, bool] = {}
        for type_name, is_enum in needed_types(file).items():
            if found := self._file_of(type_name, given):
                had.append(found)
            else:
                unknown[type_name] = is_enum
        made = placeholders(unknown, file.name)
        had += [one.name for one in made if self._accepts(one) is None]
        refused: str | None = None
        for copy in without_gaps(file, had, unknown):
            if (refused := self._accepts(copy)) is None:
                break
        else:
            raise SchemaError(f"{shortened(file.name)} cannot be used: {shortened(refused or '', 500)}")
        self._protos[file.name] = file
        if unknown:
            reason = f" ({reasons[0]})" if reasons else ""
            self.gaps.append(
                f"{shortened(file.name)}: no file defines {listed(sorted(unknown), _LISTED)}{reason}"
            )

    def _accepts(self, file: FileDescriptorProto) -> str | None:
        """Give a file to the pool; why the pool refuses it, or None."""
        try:
            self._pool.Add(file)
            self._files[file.name] = self._pool.FindFileByName(file.name)
        except (TypeError, KeyError) as exc:
            return str(exc)
        return None

    def _file_of(self, type_name: str, given: dict[str, FileDescriptorProto]) -> str | None:
        """The file that defines a type, whatever it is called; None if there is none."""
        if (known := self._find_file(type_name)) is not None:
            return known
        for name in [name for name, file in given.items() if type_name in defined_types(file)]:
            with suppress(SchemaError):
                self._add(name, given, importer="")
                return name
        return None

    def _find_file(self, type_name: str) -> str | None:
        for find in (self._pool.FindMessageTypeByName, self._pool.FindEnumTypeByName):
            with suppress(KeyError):
                return str(find(type_name).file.name)
        return None

    def services(self) -> list[ServiceDescriptor]:
        """Every service of the files, in the order of their full names."""
        found = [service for file in self._files.values() for service in file.services_by_name.values()]
        return sorted(found, key=lambda service: service.full_name)

    def files(self) -> list[FileDescriptorProto]:
        """The proto files, with their comments if they carry any.

        Their class knows the options that the files define: such an option is a
        field, and not just bytes.
        """
        self._add(_DESCRIPTOR, {}, importer="")
        known: Any = self.message_class("google.protobuf.FileDescriptorProto")
        return [known.FromString(file.SerializeToString()) for file in self._protos.values()]

    def has_message(self, name: str) -> bool:
        """Whether the message of this full name is known."""
        return self._find_message(name) is not None

    def message_class(self, name: str) -> type[Message]:
        """The class of the message of this full name.

        Raises:
            SchemaError: No file defines it.
        """
        descriptor = self._find_message(name)
        if descriptor is None:
            raise SchemaError(f"there is no message {shortened(name)}")
        return message_factory.GetMessageClass(descriptor)

    def _find_message(self, name: str) -> Descriptor | None:
        try:
            return self._pool.FindMessageTypeByName(name)
        except KeyError:
            return None

    def find_method(self, text: str, services: Iterable[str] | None = None) -> ProtoMethod:
        """The method a person means by `text`.

        Args:
            text: `SayHello`, `Greeter.SayHello`, `Greeter/SayHello`, or with the
                package in front of the service.
            services: Full names of the services to look in; all by default.

        Raises:
            MethodNotFound: No method fits, or more than one; the text lists near
                or existing ones.
        """
        wanted = None if services is None else set(services)
        there = [service for service in self.services() if wanted is None or service.full_name in wanted]
        service_text, method_text = split_method(text)
        candidates = [service for service in there if _is_called(service, service_text)]
        methods = [service.methods_by_name.get(method_text) for service in candidates]
        found = [method for method in methods if method is not None]
        if len(found) == 1:
            return self._method(found[0])
        if found:
            names = listed([_short(method) for method in found])
            raise MethodNotFound(f"method {excerpt(text)} may be each of {names}: say which")
        raise MethodNotFound(_not_found(text, there, candidates))

    def _method(self, descriptor: MethodDescriptor) -> ProtoMethod:
        return ProtoMethod(
            descriptor,
            message_factory.GetMessageClass(descriptor.input_type),
            message_factory.GetMessageClass(descriptor.output_type),
        )


def split_method(text: str) -> tuple[str, str]:
    """Service (empty if the text has none) and method, in the forms `Schema.find_method` takes."""
    text = text.removeprefix("/")
    service, _, method = text.rpartition("/" if "/" in text else ".")
    return service, method


def _is_called(service: ServiceDescriptor, text: str) -> bool:
    return not text or service.full_name == text or service.full_name.endswith(f".{text}")


def _short(method: MethodDescriptor) -> str:
    return f"{method.containing_service.full_name}/{method.name}"


def _not_found(text: str, there: Sequence[ServiceDescriptor], candidates: Sequence[ServiceDescriptor]) -> str:
    """Why `text` is no method: lists near names, or else every name."""
    service_text, method_text = split_method(text)
    if service_text and not candidates:
        message = f"there is no service {excerpt(service_text)}"
    elif service_text and len(candidates) == 1:
        message = f"service {shortened(candidates[0].full_name)} has no method {excerpt(method_text)}"
    else:
        message = f"there is no method {excerpt(method_text)}"
    methods = [_short(method) for service in (candidates or there) for method in service.methods]
    # If the service is right, compare only its methods' names.
    near = nearest_name(text if service_text and not candidates else method_text, methods)
    if near:
        return f"{message}; did you mean {shortened(near)}?"
    listing = "".join(f"\n  {shortened(name)}" for name in methods[:_LISTED])
    if len(methods) > _LISTED:
        listing += f"\n  and {len(methods) - _LISTED} more"
    return f"{message}; there are:{listing}" if methods else f"{message}; no service is known at all"


# A longer list would scroll the message itself off a terminal.
_LISTED = 20


def nearest_name(text: str, names: Sequence[str]) -> str | None:
    """The one of `names` that looks most like `text`, ignoring case, underscores and package."""
    # Compare as many segments of each name as the text has: `Greter.SayHelo` with
    # `Greeter/SayHello`, whatever package that is in.
    segments = len(re.split(r"[./]", text))

    def bare(name: str) -> str:
        return "".join(re.split(r"[./]", name)[-segments:]).replace("_", "").lower()

    return nearest(text, names, bare)


_DESCRIPTOR = "google/protobuf/descriptor.proto"
_GOOGLE = re.compile(r"google/(api|protobuf|rpc|type)/[a-z_]+\.proto")


def _installed(name: str) -> FileDescriptorProto | None:
    """One of google's own files from its Python package, if that is installed."""
    if not _GOOGLE.fullmatch(name):
        return None
    try:
        module: Any = import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    except ImportError:
        return None
    file = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    return file
