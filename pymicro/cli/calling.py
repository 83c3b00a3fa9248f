"""What `pymicro call` does once its arguments are parsed."""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import DebugInfo

from pymicro.base.printable import excerpt
from pymicro.calling.call.channel_state import UNSET
from pymicro.calling.peers.reflection import ReflectionClient
from pymicro.cli.clients import (
    at_address,
    make_client,
    near_name,
    read_address,
    read_seconds,
    saying_what_it_waits_for,
)
from pymicro.cli.exchange import Exchange
from pymicro.cli.message_types import MessageTypes, ProtoFiles, Reflected
from pymicro.cli.report import EXIT_STATUS, InputError, dump, note
from pymicro.cli.request_source import RequestSource, open_requests
from pymicro.rpc.schema import MethodNotFound
from pymicro.rpc.status import RpcError, Unavailable

if TYPE_CHECKING:
    from pymicro.calling.channel import Channel
    from pymicro.client import Client

__all__ = ["CallOptions", "call_method"]

Header = tuple[str, str | bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """The command line of `pymicro call`, checked.

    Attributes:
        timeout: Seconds for everything from the first connection to the last
            reply, 0 for no limit; None if the settings decide.
        address: `host:port` of the node to call; None to look one up.
    """

    service: str
    method: str
    requests: RequestSource
    timeout: float | None
    headers: tuple[Header, ...]
    address: str | None
    protos: tuple[str, ...]
    proto_paths: tuple[str, ...]
    verbose: bool

    @classmethod
    def read(
        cls,
        service: str,
        method: str,
        request_json: str,
        *,
        timeout: str | None,
        headers: Sequence[str],
        address: str | None,
        **rest: Any,
    ) -> Self:
        """Check the arguments of the command line.

        Raises:
            InputError: An argument cannot be used; says which.
        """
        return cls(
            service=service,
            method=method,
            requests=open_requests(request_json),
            timeout=None if timeout is None else read_seconds("--timeout", timeout),
            headers=tuple(_read_header(text) for text in headers),
            address=None if address is None else read_address(address),
            **rest,
        )

    def settings(self, argv: Sequence[str]) -> list[str]:
        """The settings' flags; if `address` is given, they make it the only node."""
        return at_address(argv, self.service, self.address)

    def proto_files(self) -> ProtoFiles | None:
        """The schema from files; None if the server must be asked for it.

        Raises:
            InputError: The files cannot be used.
        """
        return ProtoFiles(self.protos, self.proto_paths) if self.protos else None

    def channel(self, client: Client) -> Channel:
        """The channel to the service."""
        # The channel gets --timeout 0: a call's own None means the channel's default.
        return client.channel(self.service, timeout=None if self.timeout == 0 else UNSET)


# The keys that gRPC allows; grpc-core asserts on others.
_KEY = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")


def _read_header(text: str) -> Header:
    key, colon, value = text.partition(":")
    key, value = key.strip().lower(), value.strip()
    if not colon or not _KEY.fullmatch(key):
        raise InputError(
            f"-H {excerpt(text)} is not of the form key:value (key of letters, digits, '-', '_', '.')"
        )
    if key.startswith("grpc-"):
        raise InputError(f"-H {excerpt(text)}: keys that start with grpc- are gRPC's own")
    if key.endswith("-bin"):
        try:
            return key, base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
        except binascii.Error as exc:
            raise InputError(f"-H {excerpt(text)}: the value of a -bin key is base64 ({exc})") from None
    if not _VALUE.fullmatch(value):
        raise InputError(f"-H {excerpt(text)}: only keys that end in -bin take other than printable ASCII")
    return key, value


async def call_method(options: CallOptions, argv: Sequence[str]) -> int:
    """Call the method and print its replies; return the exit code."""
    start = time.monotonic()
    deadline = start + options.timeout if options.timeout else None

    def left() -> float | None:
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    proto_files = options.proto_files()
    async with make_client(options.settings(argv), waits=True) as client:
        channel = options.channel(client)
        limit = left() if options.timeout is not None else client.config.client_request_timeout or None
        types = proto_files or Reflected(ReflectionClient(channel, timeout=limit, metadata=options.headers))
        try:
            async with saying_what_it_waits_for(client, options.service):
                method = await types.find_method(options.method)
                exchange = Exchange(method, types, options.requests, verbose=options.verbose)
                await exchange.run(channel, options.headers, left())
        except MethodNotFound as exc:
            raise InputError(str(exc)) from exc
        except RpcError as exc:
            await _tell_status(exc, types)
            # No node has that name; the call has waited long enough for a registry that is away.
            nobody = isinstance(exc, Unavailable) and exc.from_peer is False and exc.node is None
            told = "did you mean" in (exc.details() or "")
            if nobody and not told and (near := await near_name(client, options.service)):
                note(near)
            return EXIT_STATUS + exc.code().value[0]
    return 0


async def _tell_status(exc: RpcError, types: MessageTypes) -> None:
    note(f" {exc.details()}", wrong=f"{exc.code().name}:")
    if exc.micro_code is not None:
        note(f"  go-micro error {exc.micro_code}" + (f" of {exc.micro_id}" if exc.micro_id else ""))
    for detail in exc.error_details:
        if isinstance(detail, AnyMessage):
            detail = await types.unpack(detail)
        if isinstance(detail, DebugInfo):  # a traceback is one only line by line
            note("\n".join(f"  {line}" for line in detail.stack_entries))
            continue
        note(f"  {detail.DESCRIPTOR.full_name} {dump(await types.write(detail))}")
