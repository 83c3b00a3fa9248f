"""One call of any of the four shapes, with JSON documents in and out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from pymicro.base.durations import format_duration
from pymicro.cli.message_types import MessageTypes
from pymicro.cli.report import InputError, dump, note, on_terminal, say
from pymicro.cli.request_source import RequestSource
from pymicro.rpc.schema import JsonError, ProtoMethod, UnknownTypes
from pymicro.rpc.status import RpcError

if TYPE_CHECKING:
    from pymicro.calling.channel import Channel

__all__ = ["Exchange", "multicallable", "only_request", "read_requests"]


class Exchange:
    """Sends the requests of a source and prints the replies.

    Args:
        verbose: Print node, metadata and time on stderr.
    """

    def __init__(
        self, method: ProtoMethod, types: MessageTypes, requests: RequestSource, *, verbose: bool
    ) -> None:
        self._method = method
        self._types = types
        self._requests = requests
        self._verbose = verbose
        self._told = False

    async def run(
        self, channel: Channel, metadata: Sequence[tuple[str, str | bytes]], timeout: float | None
    ) -> None:
        """Make the call, to the end of its replies.

        Args:
            timeout: Seconds; None leaves it to the channel.

        Raises:
            InputError: A request is no JSON or does not fit; the call is cancelled.
            RpcError: The call ended with another status than OK.
        """
        method, source, types = self._method, self._requests, self._types
        make_call = multicallable(channel, method, method.request.SerializeToString)
        given = () if method.client_streaming else (await only_request(source, method, types),)
        start = time.monotonic()
        call = make_call(*given, timeout=timeout, metadata=tuple(metadata))
        try:
            await self._converse(call)
        except RpcError:
            await self._tell_end(call, start)
            raise
        finally:
            call.cancel()  # does nothing to an ended call
        await self._tell_end(call, start)

    async def _converse(self, call: Any) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                sender = group.create_task(self._send(call)) if self._method.client_streaming else None
                await self._receive(call)
                if sender is not None:  # the server has ended the call, so nobody reads the rest
                    sender.cancel()
        except BaseExceptionGroup as failures:
            # The first failure has cancelled the other task.
            raise failures.exceptions[0] from None

    async def _receive(self, call: Any) -> None:
        if not self._method.server_streaming:
            reply = await call
            await self._tell_begin(call)
            say(dump(await self._types.write(reply), pretty=on_terminal()))
            return
        async for reply in call:
            await self._tell_begin(call)
            say(dump(await self._types.write(reply)))

    async def _send(self, call: Any) -> None:
        # An ended call refuses writes; the task that reads replies reports how it ended.
        with contextlib.suppress(asyncio.InvalidStateError, RpcError):
            async for request in read_requests(self._requests, self._method, self._types):
                await call.write(request)
            await call.done_writing()

    async def _tell_begin(self, call: Any) -> None:
        if not self._verbose or self._told:
            return
        self._told = True
        node = call.node
        if node is None:
            note("node: none")
            return
        name = "" if node.id == node.address else f"{node.id} at "
        version = f", version {node.version}" if node.version else ""
        note(f"node: {name}{node.address}{version}")
        _tell_metadata("initial metadata", await call.initial_metadata())

    async def _tell_end(self, call: Any, start: float) -> None:
        if not self._verbose:
            return
        took = time.monotonic() - start
        await self._tell_begin(call)
        if call.node is not None:
            _tell_metadata("trailing metadata", await call.trailing_metadata())
        note(f"time: {format_duration(round(took, 4))}")


def multicallable(channel: Channel, method: ProtoMethod, serializer: Callable[[Any], bytes] | None) -> Any:
    """The multicallable that a stub would hold for the method.

    Args:
        serializer: None if requests are given as bytes.
    """
    shape = (
        f"{'stream' if method.client_streaming else 'unary'}_"
        f"{'stream' if method.server_streaming else 'unary'}"
    )
    return getattr(channel, shape)(
        method.path, request_serializer=serializer, response_deserializer=method.response.FromString
    )


async def only_request(source: RequestSource, method: ProtoMethod, types: MessageTypes) -> Message:
    """The request of a method that takes exactly one.

    Raises:
        InputError: There is none, or several, or it is no JSON or does not fit.
    """
    requests = [request async for request in read_requests(source, method, types)]
    if len(requests) != 1:
        count = len(requests) or "none"
        raise InputError(f"{method.path[1:]} takes one request, {source.name} has {count}")
    return requests[0]


async def read_requests(
    source: RequestSource, method: ProtoMethod, types: MessageTypes
) -> AsyncIterator[Message]:
    """The requests for a method, each as soon as its document is complete.

    Raises:
        InputError: A request is no JSON or does not fit; says where.
    """
    async for document in source.documents():
        try:
            yield await types.read(document, method.request)
        except JsonError as exc:
            place = source.name
            if document.line > 1 or source.text is None or "\n" in source.text:
                place += f", line {exc.line}"
            if exc.column is not None:
                place += f", column {exc.column}"
            raise InputError(f"{place}: {exc}") from exc
        except UnknownTypes as exc:
            raise InputError(f"{source.name}: {exc}") from exc


def _tell_metadata(title: str, metadata: Any) -> None:
    pairs = list(metadata or ())
    note(f"{title}: {'' if pairs else 'none'}".rstrip())
    for key, value in pairs:
        text = base64.b64encode(value).decode() if isinstance(value, bytes) else value
        note(f"  {key}: {text}")
