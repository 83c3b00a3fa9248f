"""A network in memory: the second transport of calls, without grpc's channels, servers or sockets.

It serves the same handlers as `grpc.aio.server`, and implements the contract of
`pymicro.calling.connections.transport` by its words. The tests of calls run over both.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from typing import Any

import grpc
import grpc.aio
from grpc.aio import EOF, AioRpcError, Metadata

from pymicro.calling.connections.method import Method
from pymicro.calling.connections.options import ChannelOptions
from pymicro.calling.connections.transport import Status
from pymicro.nodes.node import Node
from pymicro.rpc.grpcio import LOCALLY_CANCELLED
from pymicro.settings.config import Config

OK = grpc.StatusCode.OK
CANCELLED = grpc.StatusCode.CANCELLED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
State = grpc.ChannelConnectivity

# Messages on their way in one direction before a writer waits.
WINDOW = 8
# Seconds between two attempts to connect.
BACKOFF = 0.05


class Network:
    """Where servers listen and connections reach them."""

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}
        self._ports = itertools.count(20_000)

    def server(self) -> Server:
        """A server as `grpc.aio.server` makes one."""
        return Server(self, next(self._ports))

    def open(self, node: Node, config: Config, options: ChannelOptions) -> Connection:
        """As every transport does."""
        return Connection(self, node.address)


class Abort(BaseException):
    """Ends a handler: what `context.abort` raises."""


class Server:
    """The part of `grpc.aio.Server` that the tests use."""

    def __init__(self, network: Network, port: int) -> None:
        self._network = network
        self._port = port
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._address = ""
        self.calls: set[Call] = set()
        self.connections: set[Connection] = set()

    def add_insecure_port(self, address: str) -> int:
        host, _, port = address.rpartition(":")
        self._port = int(port) or self._port
        self._address = f"{host}:{self._port}"
        return self._port

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        for handler in handlers:
            self._handlers.update(handler._method_handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self._handlers.update({f"/{service}/{name}": handler for name, handler in handlers.items()})

    async def start(self) -> None:
        self._network.servers[self._address] = self

    async def stop(self, grace: float | None) -> None:
        self._network.servers.pop(self._address, None)
        if grace and self.calls:
            await asyncio.wait(
                [asyncio.ensure_future(call.ended.wait()) for call in self.calls], timeout=grace
            )
        for call in list(self.calls):
            call.finish(Status(UNAVAILABLE, "the server has stopped", Metadata(), Metadata(), "in memory"))
        for connection in list(self.connections):
            connection.lost()

    def handler(self, path: str) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._handlers.get(path)


class Connection:
    """A connection in memory: READY a turn of the loop after it was asked for, if somebody listens."""

    def __init__(self, network: Network, address: str) -> None:
        self._network = network
        self.address = address
        self.server: Server | None = None
        self._state = State.IDLE
        self._changed: list[asyncio.Future[None]] = []
        self._timer: asyncio.Handle | None = None

    def state(self, connect: bool = False) -> State:
        if connect and self._state is State.IDLE:
            self._connect()
        return self._state

    def _connect(self) -> None:
        self._become(State.CONNECTING)
        self._timer = asyncio.get_running_loop().call_soon(self._try)

    def _try(self) -> None:
        self.server = self._network.servers.get(self.address)
        if self.server is not None:
            self.server.connections.add(self)
            self._become(State.READY)
        else:
            self._become(State.TRANSIENT_FAILURE)
            self._timer = asyncio.get_running_loop().call_later(BACKOFF, self._connect)

    def lost(self) -> None:
        """The server has closed it."""
        self._leave()
        self._become(State.IDLE)

    def _leave(self) -> None:
        if self.server is not None:
            self.server.connections.discard(self)
            self.server = None

    def _become(self, state: State) -> None:
        self._state = state
        waiters, self._changed = self._changed, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def change(self, last: State) -> None:
        while self._state is last:
            waiter = asyncio.get_running_loop().create_future()
            self._changed.append(waiter)
            await waiter

    def bind(self, method: Method) -> Callable[..., Call]:
        def start(
            request: bytes | None,
            /,
            *,
            timeout: float | None,
            metadata: Any,
            credentials: Any,
            compression: Any,
        ) -> Call:
            return Call(self, method, request, timeout, tuple(metadata or ()))

        return start

    def code(self, call: Call) -> grpc.StatusCode:
        assert call.status is not None
        return call.status.code

    async def last_word(self, call: Call) -> None:
        """The first word is the last one."""

    def cancelled_here(self, call: Call) -> bool:
        assert call.status is not None
        return call.status.debug is None

    def status(self, call: Call) -> Status:
        assert call.status is not None
        return call.status

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._leave()
        self._become(State.SHUTDOWN)


class Pipe:
    """Messages in one direction, a few at a time."""

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.closed = False
        self._changed = asyncio.Condition()

    async def put(self, message: bytes) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.messages) < WINDOW or self.closed)
            if not self.closed:
                self.messages.append(message)
            self._changed.notify_all()

    async def get(self) -> Any:
        async with self._changed:
            await self._changed.wait_for(lambda: self.messages or self.closed)
            message = self.messages.popleft() if self.messages else EOF
            self._changed.notify_all()
            return message

    async def close(self) -> None:
        async with self._changed:
            self.closed = True
            self._changed.notify_all()


class Call:
    """One call, with the handler that serves it in a task."""

    def __init__(
        self,
        connection: Connection,
        method: Method,
        request: bytes | None,
        timeout: float | None,
        metadata: tuple[tuple[str, Any], ...],
    ) -> None:
        self.status: Status | None = None
        self.ended = asyncio.Event()
        self.method = method
        self.metadata = metadata
        self.requests, self.responses = Pipe(), Pipe()
        self.initial: asyncio.Future[Metadata] = asyncio.get_running_loop().create_future()
        self._final: Status | None = None  # the handler's, until all responses have been read
        self._connection = connection
        self._request = request
        self._response: bytes | None = None
        self._half_closed = False
        self._callbacks: list[Callable[[Call], None]] = []
        self._server: Server | None = None
        loop = asyncio.get_running_loop()
        self.deadline = None if timeout is None else loop.time() + timeout
        self._timer = None if timeout is None else loop.call_later(timeout, self._late)
        self._task = loop.create_task(self._run())

    # The end

    def _late(self) -> None:
        self.finish(
            Status(
                grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", Metadata(), Metadata(), "in memory"
            )
        )

    def finish(self, status: Status) -> None:
        if self.status is not None:
            return
        initial = self.initial.result() if self.initial.done() else status.initial
        self.status = Status(status.code, status.details, initial, status.trailing, status.debug)
        if not self.initial.done():
            self.initial.set_result(initial)
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            self._server.calls.discard(self)
        self.ended.set()
        if self._final is None:
            self._task.cancel()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def _handler_ended(self, status: Status, response: bytes | None = None) -> None:
        if self.status is not None:
            return
        self._final = status
        self._response = response
        self.responses.closed = True
        if not self.responses.messages:
            self.finish(status)

    # What the contract asks for

    def add_done_callback(self, callback: Callable[[Call], None]) -> None:
        if self.status is not None:
            callback(self)
        else:
            self._callbacks.append(callback)

    def cancel(self) -> bool:
        if self.status is not None:
            return False
        self.finish(Status(CANCELLED, LOCALLY_CANCELLED, Metadata(), Metadata(), None))
        return True

    def _raise(self) -> None:
        assert self.status is not None
        if self.status.debug is None:
            raise asyncio.CancelledError
        if self.status.code is not OK:
            raise AioRpcError(self.status.code, Metadata(), Metadata(), self.status.details)

    def __await__(self) -> Generator[Any, None, bytes | None]:
        yield from self._until(self.ended.wait()).__await__()
        self._raise()
        return self._response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self.status is None or self.responses.messages:
            message = await self._until(self.responses.get())
            if self._final is not None and not self.responses.messages:
                # Whoever reads has the last response before anybody hears of the end.
                asyncio.get_running_loop().call_soon(self.finish, self._final)
            if message is not None and message is not EOF:
                return bytes(message)
        if self.status is None:
            await self._until(self.ended.wait())
        self._raise()
        raise StopAsyncIteration

    async def write(self, request: bytes) -> None:
        assert isinstance(request, bytes), "requests are serialized before they come here"
        if self.status is not None or self._half_closed:
            raise asyncio.InvalidStateError
        await self._until(self.requests.put(request))
        if self.status is not None:
            self._raise()

    async def done_writing(self) -> None:
        self._half_closed = True
        await self._until(self.requests.close())

    async def initial_metadata(self) -> Metadata:
        return await asyncio.shield(self.initial)

    async def wait_for_connection(self) -> None:
        if self.status is not None:
            self._raise()

    async def _until(self, work: Any) -> Any:
        """The result of `work`; None if the call ends first. Cancelling this cancels the call."""
        task, ended = asyncio.ensure_future(work), asyncio.ensure_future(self.ended.wait())
        try:
            await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            task.cancel()
            ended.cancel()

    # The server's side

    async def _run(self) -> None:
        connection = self._connection
        if connection.state(True) is State.CONNECTING:
            await connection.change(State.CONNECTING)
        self._server = server = connection.server
        if server is None:
            self._handler_ended(
                Status(UNAVAILABLE, "failed to connect to all addresses", Metadata(), Metadata(), "in memory")
            )
            return
        server.calls.add(self)
        context = Context(self)
        handler = server.handler(self.method.path)
        if handler is None:
            context.end(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            return
        try:
            await self._serve(handler, context)
        except Abort:
            return
        except asyncio.CancelledError:
            if self.status is None:  # by the handler itself
                context.end(grpc.StatusCode.UNKNOWN, "cancelled")
            raise
        except Exception as exc:
            context.end(grpc.StatusCode.UNKNOWN, f"Unexpected {type(exc)}: {exc}")

    async def _serve(self, handler: Any, context: Context) -> None:
        parse = handler.request_deserializer or (lambda data: data)
        serialize = handler.response_serializer or (lambda message: message)
        function = getattr(handler, self.method.shape.value)
        given = self._arriving(parse) if handler.request_streaming else parse(self._request)
        produced = function(given, context)
        if not handler.response_streaming:
            context.end(response=serialize(await produced))
            return
        if inspect.isasyncgen(produced):
            async with contextlib.aclosing(produced):
                async for message in produced:
                    await context.write(serialize(message))
        else:
            await produced
        context.end()

    async def _arriving(self, parse: Any) -> AsyncIterator[Any]:
        while (message := await self.requests.get()) is not EOF:
            yield parse(message)


class Context:
    """The part of `grpc.aio.ServicerContext` that the tests' handlers use."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._trailing = Metadata()
        self._code = OK
        self._details = ""

    def invocation_metadata(self) -> tuple[tuple[str, Any], ...]:
        # As grpc has it: bytes are text unless the key says otherwise.
        return tuple(
            (key, value.decode() if isinstance(value, bytes) and not key.endswith("-bin") else value)
            for key, value in (*self._call.metadata, ("user-agent", "in-memory/1"))
        )

    def time_remaining(self) -> float | None:
        deadline = self._call.deadline
        return None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())

    def peer(self) -> str:
        return "memory:1"

    def cancelled(self) -> bool:
        return self._call.status is not None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._call.add_done_callback(lambda _: callback(self))

    async def send_initial_metadata(self, metadata: Any) -> None:
        if not self._call.initial.done():
            self._call.initial.set_result(Metadata(*metadata))

    def set_trailing_metadata(self, metadata: Any) -> None:
        self._trailing = Metadata(*metadata)

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        self._trailing = Metadata(*trailing_metadata)
        self.end(code, details)
        raise Abort

    async def write(self, message: bytes) -> None:
        await self.send_initial_metadata(())
        await self._call.responses.put(message)

    def end(self, code: grpc.StatusCode | None = None, details: str = "", response: Any = None) -> None:
        status = Status(code or self._code, details or self._details, Metadata(), self._trailing, "in memory")
        self._call._handler_ended(status, response)
