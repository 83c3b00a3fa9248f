"""grpc.aio's server as a transport."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio
from grpc.aio import EOF

from pymicro.base.grpc_loops import GrpcUse, use_grpc_here
from pymicro.nodes.wellknown import server_ping_interval
from pymicro.rpc.grpcio import awaited_by_grpc, is_accept_loop, sure_end
from pymicro.rpc.wire.shape import Shape
from pymicro.serving.foreign import Foreign
from pymicro.serving.grpc_credentials import GrpcServerCredentials
from pymicro.serving.listen import listen
from pymicro.serving.transport import CallDetails, ServedMethod, ServedMethods
from pymicro.settings.config import Config

if TYPE_CHECKING:
    from pymicro.identity.keeper import IdentityKeeper

__all__ = ["GrpcServerTransport"]

# The largest value of grpc-core's channel arguments; as an age it means for ever.
_C_INT_MAX = (1 << 31) - 1


class GrpcServerTransport:
    """A `grpc.aio.Server`; its own servicer contexts are the calls.

    Args:
        options: grpc channel arguments; they override ours.
        compression: Compression of responses.
    """

    def __init__(
        self,
        config: Config,
        options: Sequence[tuple[str, Any]] = (),
        compression: grpc.Compression | None = None,
    ) -> None:
        self._name = config.server_name
        self._options = _arguments(config, options)
        self._client_certificates = config.tls_client_certificates
        self._compression = compression
        self._server: grpc.aio.Server | None = None
        self._shown: list[GrpcServerCredentials] = []
        self._stopping = False
        self._use: GrpcUse | None = None

    @property
    def ping_interval(self) -> str:
        """See `ServerTransport`."""
        return server_ping_interval(self._options)

    async def listen(
        self, address: str, methods: ServedMethods, identity: IdentityKeeper | None = None
    ) -> tuple[str, int]:
        """See `ServerTransport`."""
        if self._use is None:
            self._use = use_grpc_here(f"the service {self._name}" if self._name else "a server")
        try:
            if self._server is None:
                self._server = self._made(methods)
            if identity is None:
                return await listen(self._server, address)
            shown = GrpcServerCredentials(identity, self._client_certificates)
            self._shown.append(shown)
            return await listen(self._server, address, shown.credentials)
        except BaseException:
            self._end_use()
            raise

    async def start(self, broken: Callable[[BaseException], None]) -> None:
        """See `ServerTransport`."""
        assert self._server is not None

        def ended(task: asyncio.Task[Any]) -> None:
            exc = None if self._stopping or task.cancelled() else task.exception()
            if exc is not None:
                broken(exc)

        before = asyncio.all_tasks()
        await self._server.start()
        for task in asyncio.all_tasks() - before:
            if is_accept_loop(task):  # grpc tells nobody if it breaks
                task.add_done_callback(ended)

    async def stop(self, grace: float | None) -> None:
        """See `ServerTransport`."""
        self._stopping = True
        while self._shown:
            self._shown.pop().close()
        if self._server is not None:
            await self._server.stop(grace)
        self._end_use()

    def _end_use(self) -> None:
        if self._use is not None:
            self._use.end()
            self._use = None

    def has_cancelled(self, task: asyncio.Task[Any]) -> bool:
        """See `ServerTransport`."""
        return awaited_by_grpc(task)

    def _made(self, methods: ServedMethods) -> grpc.aio.Server:
        find: Callable[[CallDetails], Any] = methods.find
        # A list: OpenTelemetry's instrumentation before 0.51 puts its own at the front of what it finds here.
        interceptors: list[grpc.aio.ServerInterceptor] = []
        if isinstance(methods, Foreign):
            # Run by ourselves they would cost each unary call a second batch: grpc.aio reads and
            # writes one message by itself only for methods whose shape it knows before.
            find, interceptors = methods.inner, [_Outermost(methods), *methods.interceptors]
        return grpc.aio.server(
            interceptors=interceptors,
            options=self._options,
            compression=self._compression,
            handlers=[_Handlers(find)],
        )


class _Handlers(grpc.GenericRpcHandler):
    """All methods. Registered one by one, each would add a future to every turn of the accept loop."""

    def __init__(self, find: Callable[[CallDetails], Any]) -> None:
        self._find = find

    def service(self, handler_call_details: Any) -> Any:
        """The handler for a call; never None."""
        found = self._find(handler_call_details)
        return (found.native or _native(found)) if type(found) is ServedMethod else found


class _Outermost(grpc.aio.ServerInterceptor):
    """Stands outside the user's interceptors, and takes what they found."""

    def __init__(self, foreign: Foreign) -> None:
        self._foreign = foreign

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return _native(await self._foreign.method(continuation, handler_call_details))


class _Reader:
    """grpc.aio's context for a method that reads requests: the end of these is one."""

    __slots__ = ("_context", "write")

    def __init__(self, context: Any) -> None:
        self._context = context
        self.write = context.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """See `ServedCall`."""
        message = await self._context.read()
        if message is EOF:
            await sure_end(self._context.read)
        return message


class _WritingContext(_Reader):
    """grpc.aio's context for a method that writes responses: one that is cancelled may still end its call.

    The first write sends the initial metadata as well, and grpc.aio notes that when it has been awaited. If
    it was cancelled, by a timeout around it say, grpc.aio would send them again with the status, which
    grpc-core refuses: the caller would wait for its deadline. A first message that is larger than the
    caller's window waits until the caller reads. So the first write goes on whatever becomes of who awaits
    it, and the status waits for it.
    """

    __slots__ = ("_begun", "_first")

    def __init__(self, context: Any) -> None:
        self._context = context
        self._begun = False
        # While it goes on. A task has its context variables, and these the call: kept, it would be garbage.
        self._first: asyncio.Task[None] | None = None

    def write(self, message: Any) -> Awaitable[None]:
        """See `ServedCall`."""
        return self._context.write(message) if self._begun and self._first is None else self._write(message)

    async def _write(self, message: Any) -> None:
        if self._begun:
            await self.settled()
            await self._context.write(message)
            return
        self._begun = True
        first = self._first = asyncio.ensure_future(self._context.write(message))
        await asyncio.wait((first,))
        self._first = None
        first.result()

    async def abort(self, *arguments: Any) -> NoReturn:
        """See `ServedCall`."""
        await self.settled()
        await self._context.abort(*arguments)
        raise AssertionError("abort returned")

    async def settled(self) -> None:
        """Wait for a first write that goes on."""
        first = self._first
        if first is not None:
            await asyncio.wait((first,))
            self._first = None
            if not first.cancelled():
                first.exception()  # whoever wrote did not wait to hear of it


class _Handler:
    """A method as grpc.aio's server looks at one. grpc's own functions for it take 5 times as long."""

    __slots__ = (
        "request_streaming",
        "response_streaming",
        "stream_stream",
        "stream_unary",
        "unary_stream",
        "unary_unary",
    )
    request_deserializer = response_serializer = None

    def __init__(self, shape: Shape, run: Any) -> None:
        self.request_streaming = shape.request_streaming
        self.response_streaming = shape.response_streaming
        self.unary_unary = self.unary_stream = self.stream_unary = self.stream_stream = run


def _native(method: ServedMethod) -> _Handler:
    if method.native is not None:
        made: _Handler = method.native
        return made
    run = method.run

    async def reading(requests: Any, context: Any) -> Any:
        return await run(None, _Reader(context))

    async def writing(request: Any, context: Any) -> Any:
        call = _WritingContext(context)
        result = await run(None if streamed else request, call)
        await call.settled()
        return result

    streamed = method.shape.request_streaming
    given = writing if method.shape.response_streaming else reading if streamed else run
    made = method.native = _Handler(method.shape, given)
    return made


def _arguments(config: Config, given: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    ours = {
        # Otherwise two servers would silently share one port.
        "grpc.so_reuseport": 0,
        "grpc.max_receive_message_length": config.max_message_size,
        # Our clients ping every 20 s, even between calls; grpc-core's own limit is 5 minutes.
        "grpc.http2.min_ping_interval_without_data_ms": 10_000,
        "grpc.keepalive_permit_without_calls": 1,
        # Of calls that come faster than the loop takes them, grpc-core would end some above 1,000, and all
        # above 3,000, with a bare CANCELLED, after which nobody may send them again. What is too much,
        # `max_concurrent_calls` refuses in words.
        "grpc.server.max_pending_requests": _C_INT_MAX,
        "grpc.server.max_pending_requests_hard_limit": _C_INT_MAX,
    }
    if config.max_connection_age:
        # grpc-core spreads the age by 10 % either way, so that the connections of one
        # deployment do not end together. Calls in flight finish: its default for
        # max_connection_age_grace_ms is no limit.
        milliseconds = math.ceil(config.max_connection_age * 1000)
        ours["grpc.max_connection_age_ms"] = min(milliseconds, _C_INT_MAX)
    names = {name for name, _ in given}
    return [*((name, value) for name, value in ours.items() if name not in names), *given]
