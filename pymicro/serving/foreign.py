"""Other people's code around dispatch: grpc.aio's server interceptors, and grpc's method handlers.

Between the transport, which moves bytes, and such code, which wants messages and grpc.aio's
servicer context, stands `Adapter`. It is outermost, so whatever this code raises ends as a status
like a handler's exception: nothing of its text leaves the process.

grpc.aio's server runs its interceptors itself, because it must know a method's shape before it
reads (`grpc_transport.py`); for every other transport `Foreign.find` runs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from grpc.aio import EOF

from pymicro.rpc.wire.shape import Shape
from pymicro.serving.call.admission import refuse_denied
from pymicro.serving.call.context import Serving
from pymicro.serving.call.dispatch import KEPT
from pymicro.serving.call.refusal import error_code, refuse_outside
from pymicro.serving.call.requests import Aside, ReceivedRequests, receive
from pymicro.serving.call.rpc_codec import RpcCodec
from pymicro.serving.call.threads import HandlerThreads
from pymicro.serving.gomicro.caller import caller_of
from pymicro.serving.gomicro.translator import Translator
from pymicro.serving.transport import CallDetails, ServedCall, ServedMethod

if TYPE_CHECKING:
    GrpcHandler = grpc.RpcMethodHandler[Any, Any]

__all__ = ["Adapter", "Foreign"]

T = TypeVar("T")

# By whether requests and responses stream.
_SHAPES = {(shape.request_streaming, shape.response_streaming): shape for shape in Shape}

# For the log: which one it was stands in the traceback.
_WHERE = "a grpc.aio interceptor, or what it called"

_Behaviour = Callable[[Any, Any], Awaitable[Any]]
_Continuation = Callable[[Any], Awaitable[Any]]


class Adapter:
    """Makes methods of grpc's method handlers.

    Args:
        threads: For handlers that are plain functions.
    """

    def __init__(self, serving: Serving, threads: HandlerThreads, gomicro: Translator) -> None:
        self._serving = serving
        self._threads = threads
        self._gomicro = gomicro

    def method(self, details: CallDetails, handler: GrpcHandler) -> ServedMethod:
        """The method for one call; go-micro's callers get errors as its JSON."""
        go_micro = caller_of(details.invocation_metadata).go_micro
        kept = getattr(handler, KEPT, None)
        if kept is None:  # interceptors often make a handler for each call, so this runs as often
            return self._made(details.method, handler, go_micro)
        found: ServedMethod | None = kept.get(go_micro)
        if found is None:
            found = kept[go_micro] = self._made(details.method, handler, go_micro)
        return found

    def _made(self, path: str, handler: GrpcHandler, go_micro: bool) -> ServedMethod:
        serving, gomicro = self._serving, self._gomicro
        streams, answers = bool(handler.request_streaming), bool(handler.response_streaming)
        shape = _SHAPES[streams, answers]
        parse = handler.request_deserializer or _as_it_is
        serialize = handler.response_serializer or _as_it_is
        codec = getattr(parse, "__self__", None)
        aside = codec.aside if isinstance(codec, RpcCodec) else None
        behave = self._coroutine(getattr(handler, shape.value), shape)
        if go_micro:
            behave = functools.partial(gomicro.run, shape, behave)

        async def run(request: Any, call: ServedCall) -> Any:
            if serving.guard is not None:
                # What a generic handler serves passes no dispatch of ours.
                await refuse_denied(path, gomicro.context(call) if go_micro else call, serving)
            context = _Context(call, parse, serialize, aside)
            try:
                if streams:
                    request = ReceivedRequests(call.read, parse, aside)
                else:
                    request = parse(request) if aside is None else await aside(request)
                response = await behave(request, context)
                if answers or call.done():
                    return None
                return serialize(response) if call.code() is None or not error_code(call) else b""
            except BaseException as exc:
                outer = gomicro.context(context) if go_micro else context
                return await refuse_outside(path, _WHERE, outer, serving, exc)

        return ServedMethod(shape, run)

    def failed(self, details: CallDetails, exc: BaseException) -> ServedMethod:
        """The method for a call whose handler could not be found because of `exc`."""

        async def run(request: Any, call: ServedCall) -> Any:
            go_micro = caller_of(details.invocation_metadata).go_micro
            outer = self._gomicro.context(call) if go_micro else call
            return await refuse_outside(details.method, _WHERE, outer, self._serving, exc)

        return ServedMethod(Shape.STREAM_STREAM, run)

    def _coroutine(self, behaviour: Any, shape: Shape) -> _Behaviour:
        """The behaviour in one form; grpc.aio tells the others apart in the same way."""
        if type(behaviour) is FunctionType and behaviour.__code__.co_flags & inspect.CO_COROUTINE:
            return behaviour  # told sooner than by `inspect`
        if inspect.isasyncgenfunction(behaviour):
            return functools.partial(_written, behaviour)
        if inspect.iscoroutinefunction(behaviour):
            return behaviour  # type: ignore[no-any-return]
        return functools.partial(self._in_threads, behaviour, shape)

    async def _in_threads(self, behaviour: Any, shape: Shape, request: Any, context: Any) -> Any:
        loop, run = asyncio.get_running_loop(), self._threads.run
        if shape.request_streaming:
            request = _blocking(request, loop)
        given = await run(behaviour, request, _Blocking(context, loop))
        if not shape.response_streaming:
            return given
        responses, end = iter(given), object()
        try:
            while (response := await run(next, responses, end)) is not end:
                await context.write(response)
        finally:
            if hasattr(given, "close"):
                await run(given.close)
        return None


class Foreign:
    """grpc.aio's server interceptors, and the handlers inside of them.

    Args:
        inner: Finds the innermost handler, in messages.
        interceptors: The first one is outermost.
    """

    def __init__(
        self,
        inner: Callable[[CallDetails], Any],
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        adapter: Adapter,
    ) -> None:
        self.inner = inner
        self.interceptors = tuple(interceptors)
        self._adapter = adapter

    def find(self, details: CallDetails) -> ServedMethod:
        """A method that runs the interceptors first, and then what they found."""

        async def run(_: Any, call: ServedCall) -> None:
            method = await self.method(self._continue(0), details)
            request = None if method.shape.request_streaming else await call.read()
            if request is EOF:
                text = f"{details.method} takes one request, and none came"
                await call.abort(grpc.StatusCode.INTERNAL, text, ())
            response = await method.run(request, call)
            if not method.shape.response_streaming and not call.done() and error_code(call) is None:
                await call.write(response)

        return ServedMethod(Shape.STREAM_STREAM, run)

    async def method(self, continuation: _Continuation, details: CallDetails) -> ServedMethod:
        """What the interceptors found, as a method in bytes.

        Args:
            continuation: Runs the interceptors.
        """
        try:
            handler = await continuation(details)
            if handler is None:
                raise LookupError("an interceptor found no handler")
            return self._adapter.method(details, handler)
        except BaseException as exc:
            return self._adapter.failed(details, exc)

    def _continue(self, index: int) -> _Continuation:
        async def continuation(details: Any) -> Any:
            if index == len(self.interceptors):
                return self.inner(details)
            return await self.interceptors[index].intercept_service(self._continue(index + 1), details)

        return continuation


class _Context:
    """The context that foreign interceptors get: the call, in messages."""

    __slots__ = ("_aside", "_call", "_parse", "_serialize", "time_remaining")

    def __init__(
        self,
        call: ServedCall,
        parse: Callable[[bytes], Any],
        serialize: Callable[[Any], bytes],
        aside: Aside | None,
    ) -> None:
        self._call = call
        self._aside = aside
        self._parse = parse
        self._serialize = serialize
        self.time_remaining = call.time_remaining  # asked for in each call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def read(self) -> Awaitable[Any]:
        """As in grpc.aio."""
        return receive(self._call.read, self._parse, self._aside)

    def write(self, message: Any) -> Awaitable[None]:
        """As in grpc.aio."""
        return self._call.write(self._serialize(message))

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """As in grpc.aio: called with this object."""
        self._call.add_done_callback(lambda _: callback(self))


class _Blocking:
    """The context for handlers in threads: what is awaited elsewhere blocks."""

    def __init__(self, context: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._context = context
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._context, name)
        if name not in ("abort", "abort_with_status", "read", "send_initial_metadata", "write"):
            return found
        return lambda *args, **kwargs: _wait(found(*args, **kwargs), self._loop)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """As in grpc's threaded API."""
        self._loop.call_soon_threadsafe(self._context.add_done_callback, lambda _: callback())
        return True


async def _written(behaviour: Callable[[Any, Any], Any], request: Any, context: Any) -> None:
    async with contextlib.aclosing(behaviour(request, context)) as responses:
        async for message in responses:
            await context.write(message)


def _blocking(messages: AsyncIterator[Any], loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    end = object()

    async def following() -> Any:
        return await anext(messages, end)

    while (message := _wait(following(), loop)) is not end:
        yield message


def _wait(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


def _as_it_is(value: Any) -> Any:
    return value
