"""A transport in memory and a channel to it: a second one behind the seam, without grpc's server."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from grpc.aio import EOF, AbortError, AioRpcError, Metadata, UsageError

from pymicro.rpc.grpcio import LOCALLY_CANCELLED, CallerGone
from pymicro.rpc.wire.status import code_of
from pymicro.serving.transport import Metadatum, ServedMethod, ServedMethods

__all__ = ["MemoryChannel", "MemoryTransport"]

# Bytes of messages that wait on their way, in each direction.
WINDOW = 1 << 16

Status = tuple[grpc.StatusCode, str, tuple[Any, ...]]


class Messages:
    """Messages in one direction; a sender waits while too many bytes are on their way."""

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self._bytes = 0
        self._watchers: list[asyncio.Future[None]] = []
        self.ended = False

    async def put(self, message: bytes) -> None:
        """Send one; returns at once if it has ended meanwhile."""
        self.waiting.append(message)
        self._bytes += len(message)
        self.wake()
        await self.until(lambda: self.ended or self._bytes < WINDOW)

    async def take(self) -> Any:
        """The next one; EOF after the end."""
        await self.until(lambda: bool(self.waiting) or self.ended)
        if not self.waiting:
            return EOF
        message = self.waiting.popleft()
        self._bytes -= len(message)
        self.wake()
        return message

    def end(self, *, lose: bool = False) -> None:
        """No more come.

        Args:
            lose: Whether those on their way are lost.
        """
        self.ended = True
        if lose:
            self.waiting.clear()
        self.wake()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition that a message or the end may change."""
        while not condition():
            watcher = asyncio.get_running_loop().create_future()
            self._watchers.append(watcher)
            await watcher

    def wake(self) -> None:
        """Let those who wait look again."""
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)


@dataclass
class Details:
    """See `transport.CallDetails`."""

    method: str
    invocation_metadata: tuple[Any, ...]


class Wire:
    """One call between its two ends."""

    def __init__(self, details: Details, timeout: float | None) -> None:
        self.details = details
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.requests, self.responses = Messages(), Messages()
        self.initial: tuple[Any, ...] | None = None
        self.status: Status | None = None
        self.gone = False  # the caller
        self.left: Callable[[], None] = lambda: None

    def start(self, initial: tuple[Any, ...] = ()) -> None:
        """Send the initial metadata, if that was not done."""
        if self.initial is None:
            self.initial = initial
            self.responses.wake()

    def end(self, code: grpc.StatusCode, details: str, trailing: tuple[Any, ...], lose: bool = False) -> None:
        """End the call for its caller."""
        if self.status is None:
            self.start()
            self.status = (code, details, trailing)
            self.responses.end(lose=lose)

    def leave(self, code: grpc.StatusCode, details: str) -> None:
        """The caller goes, or is taken to have gone."""
        if self.status is None:
            self.end(code, details, (), lose=True)
            self.gone = True
            self.left()


class MemoryCall:
    """The served end; see `transport.ServedCall`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._aborted: AbortError | None = None
        self._done = False
        self._code: Any = None
        self._details = ""
        self._trailing: tuple[Any, ...] = ()
        self._callbacks: list[Callable[[Any], None]] = []

    def invocation_metadata(self) -> tuple[Any, ...]:
        return self._wire.details.invocation_metadata

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def peer_identities(self) -> Iterable[bytes] | None:
        return None

    def peer_identity_key(self) -> str | None:
        return None

    def auth_context(self) -> dict[str, Iterable[bytes]]:
        return {}

    def time_remaining(self) -> float | None:
        deadline = self._wire.deadline
        return None if deadline is None else max(deadline - time.monotonic(), 0.0)

    async def read(self) -> Any:
        if self._done:
            self._usable()  # which raises
        message = await self._wire.requests.take()
        if self._wire.gone:
            await asyncio.get_running_loop().create_future()  # until this task is cancelled: it is no end
        return message

    def _usable(self) -> None:
        if self._aborted is not None:
            raise self._aborted
        if self._done:
            raise UsageError("RPC already finished.")
        if self._wire.gone:
            raise CallerGone("the caller has gone")

    async def send_initial_metadata(self, initial_metadata: tuple[Any, ...]) -> None:
        self._usable()
        if self._wire.initial is not None:
            raise UsageError("Send initial metadata failed: already sent")
        self._wire.start(initial_metadata)

    async def write(self, message: bytes) -> None:
        assert isinstance(message, bytes)
        self._usable()
        self._wire.start()
        await self._wire.responses.put(message)
        if self._wire.gone:
            raise CallerGone("the caller has gone")

    async def abort(self, code: Any, details: str = "", trailing_metadata: tuple[Any, ...] = ()) -> NoReturn:
        if self._aborted is not None:
            raise UsageError("Abort already called!")
        self._aborted = AbortError("Locally aborted.")
        self._done = True
        self._code, self._details = code, details or self._details
        self._trailing = trailing_metadata or self._trailing
        if self._wire.gone:
            raise CallerGone("the caller has gone")
        self._wire.end(code_of(code), self._details, self._trailing)
        raise self._aborted

    def set_code(self, code: Any) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._trailing = tuple(trailing_metadata)

    def code(self) -> Any:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[Any, ...]:
        return self._trailing

    def set_compression(self, compression: grpc.Compression) -> None:
        if self._wire.initial is not None:
            raise RuntimeError("too late for compression")

    def disable_next_message_compression(self) -> None: ...

    def done(self) -> bool:
        return self._done

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    async def serve(self, method: ServedMethod) -> None:
        """Run a method from its start to its status."""
        try:
            request = None if method.shape.request_streaming else await self.read()
            if request is not EOF:  # the caller ended before it had sent any
                response = await method.run(request, self)
                if not self._done:
                    self._finish(method, response)
        except AbortError:
            assert self._aborted is not None
        except CallerGone:
            assert self._wire.gone
        except asyncio.CancelledError:
            assert self._wire.gone, "a method whose caller waits ends with a status"
        finally:
            for callback in self._callbacks:
                callback(self)

    def _finish(self, method: ServedMethod, response: Any) -> None:
        code = code_of(self._code or grpc.StatusCode.OK)
        self._done = True
        self._wire.requests.end()
        if self._wire.gone:
            return
        if not method.shape.response_streaming and code is grpc.StatusCode.OK:
            assert isinstance(response, bytes)
            self._wire.start()
            self._wire.responses.waiting.append(response)
        self._wire.end(code, self._details, self._trailing)


class MemoryTransport:
    """See `transport.ServerTransport`; `channel()` calls it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._methods: ServedMethods | None = None
        self._started = asyncio.Event()
        self._stopping = False
        self._wires: dict[Wire, asyncio.Task[None]] = {}
        self._cancelled: set[asyncio.Task[Any]] = set()

    ping_interval = ""

    async def listen(self, address: str, methods: ServedMethods, identity: object = None) -> tuple[str, int]:
        self._methods = methods
        return "memory", 1

    async def start(self, broken: Callable[[BaseException], None]) -> None:
        self._started.set()

    async def stop(self, grace: float | None) -> None:
        self._stopping = True
        if self._wires and grace:
            await asyncio.wait(self._wires.values(), timeout=grace)
        for wire in list(self._wires):
            wire.leave(grpc.StatusCode.UNAVAILABLE, "Cancelling all calls")
        await asyncio.sleep(0)

    def has_cancelled(self, task: asyncio.Task[Any]) -> bool:
        return task in self._cancelled

    def accept(self, wire: Wire) -> None:
        """Take a call."""
        if self._stopping:
            wire.end(grpc.StatusCode.UNAVAILABLE, "the server has stopped", ())
            return
        task = asyncio.get_running_loop().create_task(self._serve(wire))
        self._wires[wire] = task

        def left() -> None:
            if not task.done():
                self._cancelled.add(task)
                task.cancel()

        def ended(_: Any) -> None:
            self._wires.pop(wire)
            self._cancelled.discard(task)

        wire.left = left
        task.add_done_callback(ended)

    async def receive(self, wire: Wire, message: bytes) -> None:
        """Take a request, unless it is too large."""
        if len(message) > self._limit:
            text = f"Received message larger than max ({len(message)} vs. {self._limit})"
            await wire.requests.until(lambda: not wire.requests.waiting)  # it is behind those
            wire.leave(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
            return
        await wire.requests.put(message)

    async def _serve(self, wire: Wire) -> None:
        await self._started.wait()
        assert self._methods is not None
        await MemoryCall(wire).serve(self._methods.find(wire.details))


class MemoryChannel:
    """As much of a `grpc.aio.Channel` as the tests use."""

    def __init__(self, transport: MemoryTransport, *always: tuple[str, str]) -> None:
        self.transport = transport
        self._always = always  # metadata of each call
        self._calls: list[ClientCall] = []

    async def __aenter__(self) -> MemoryChannel:
        return self

    async def __aexit__(self, *exc: Any) -> None:
        for call in self._calls:
            call.cancel()

    def _multicallable(self, path: str | bytes, *serializers: Any, **more: Any) -> Callable[..., ClientCall]:
        serialize = more.get("request_serializer") or (lambda message: message)
        deserialize = more.get("response_deserializer") or (lambda raw: raw)

        def start(
            request: Any = None, *, timeout: float | None = None, metadata: Any = (), **_: Any
        ) -> ClientCall:
            pairs = tuple(Metadatum(key, value) for key, value in (*(metadata or ()), *self._always))
            wire = Wire(Details(path if isinstance(path, str) else path.decode(), pairs), timeout)
            call = ClientCall(self.transport, wire, request, timeout, serialize, deserialize)
            self._calls.append(call)
            return call

        return start

    unary_unary = unary_stream = stream_unary = stream_stream = _multicallable


class ClientCall:
    """The caller's end, of every shape."""

    def __init__(
        self,
        transport: MemoryTransport,
        wire: Wire,
        request: Any,
        timeout: float | None,
        serialize: Callable[[Any], bytes],
        deserialize: Callable[[bytes], Any],
    ) -> None:
        self._transport, self._wire = transport, wire
        self._serialize, self._deserialize = serialize, deserialize
        self._locally_cancelled = False
        loop = asyncio.get_running_loop()
        if timeout is not None:
            passed = (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
            timer = loop.call_later(max(timeout, 0), wire.leave, *passed)
            self._timer: asyncio.TimerHandle | None = timer
        else:
            self._timer = None
        self._sending = None if request is None else loop.create_task(self._send(request))
        transport.accept(wire)

    async def _send(self, request: Any) -> None:
        if isinstance(request, AsyncIterable):
            async for message in request:
                await self.write(message)
        elif isinstance(request, Iterable) and not isinstance(request, bytes):
            for message in request:
                await self.write(message)
        else:
            await self.write(request)
        await self.done_writing()

    async def write(self, message: Any) -> None:
        if self._wire.status is None and not self._wire.requests.ended:
            await self._transport.receive(self._wire, self._serialize(message))

    async def done_writing(self) -> None:
        self._wire.requests.end()

    async def read(self) -> Any:
        raw = await self._wire.responses.take()
        if raw is not EOF:
            return self._deserialize(raw)
        self._raise_if_failed()
        return EOF

    async def __aiter__(self) -> Any:
        try:
            while (message := await self.read()) is not EOF:
                yield message
        except (asyncio.CancelledError, GeneratorExit):
            self.cancel()
            raise

    def __await__(self) -> Any:
        return self._response().__await__()

    async def _response(self) -> Any:
        try:
            message = await self.read()
            await self._ended()
        except asyncio.CancelledError:
            self.cancel()
            raise
        self._raise_if_failed()
        return message

    def _raise_if_failed(self) -> None:
        self._settle()
        if self._locally_cancelled:
            raise asyncio.CancelledError
        assert self._wire.status is not None
        code, details, trailing = self._wire.status
        if code is not grpc.StatusCode.OK:
            initial = Metadata(*(self._wire.initial or ()))
            raise AioRpcError(code, initial, Metadata(*trailing), details, f"memory: {details}")

    def cancel(self) -> bool:
        if self._wire.status is not None:
            self._settle()
            return False
        self._locally_cancelled = True
        self._wire.leave(grpc.StatusCode.CANCELLED, LOCALLY_CANCELLED)
        self._settle()
        return True

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._sending is not None:
            self._sending.cancel()

    def done(self) -> bool:
        return self._wire.status is not None

    async def _ended(self) -> Status:
        await self._wire.responses.until(lambda: self._wire.status is not None)
        self._settle()
        assert self._wire.status is not None
        return self._wire.status

    async def code(self) -> grpc.StatusCode:
        return (await self._ended())[0]

    async def details(self) -> str:
        return (await self._ended())[1]

    async def trailing_metadata(self) -> Metadata:
        return Metadata(*(await self._ended())[2])

    async def initial_metadata(self) -> Metadata:
        await self._wire.responses.until(lambda: self._wire.initial is not None)
        return Metadata(*(self._wire.initial or ()))
