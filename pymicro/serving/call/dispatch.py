"""From a call to a handler: built once per method, with no inspection per call.

path → grpc.aio interceptors → here: admission → call context → exceptions to status →
our interceptors → handler
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any

import grpc

from pymicro.base.loggers import logger
from pymicro.rpc.grpcio import CallerGone, grpc_handler, let_events_arrive
from pymicro.rpc.interceptors import Interceptor, apply, mapped, through
from pymicro.serving.call.admission import begin, begin_known, begin_late, begin_proved
from pymicro.serving.call.context import CallContext, Serving
from pymicro.serving.call.noting import note_end
from pymicro.serving.call.refusal import NotOverridden, ended_with, refuse
from pymicro.serving.call.relay import Relay
from pymicro.serving.call.requests import ReceivedRequests
from pymicro.serving.call.rpc_codec import RpcCodec
from pymicro.serving.call.threads import HandlerThreads
from pymicro.serving.handlers.types import RpcHandler, Style
from pymicro.serving.transport import ServedMethod

__all__ = ["KEPT", "Dispatcher"]

log = logger("pymicro.server")

# An attribute of our handlers, where `foreign` keeps what it makes of them: interceptors that pass
# a call on give back the same handler in each call.
KEPT = "pymicro_kept"

_Run = Callable[[Any, CallContext], Awaitable[Any]]
_Push = Callable[[Any, CallContext], Coroutine[Any, Any, None]]
_Iterate = Callable[[Any, CallContext], AsyncIterator[Any]]


class Dispatcher:
    """Makes methods that are served out of handlers.

    Args:
        threads: For handlers that are plain functions.
        reading: For requests that take long to parse.
        interceptors: Our own kind, the first one outermost.
        foreign: Whether grpc.aio interceptors run outside; these want to see messages
            and to iterate response streams.
        limit: Largest response in bytes.

    Attributes:
        serving: What calls share.
    """

    def __init__(
        self,
        serving: Serving,
        threads: HandlerThreads,
        reading: HandlerThreads,
        *,
        interceptors: tuple[Interceptor, ...] = (),
        foreign: bool = False,
        limit: float,
    ) -> None:
        self.serving = serving
        guard = serving.guard
        self._admit = (
            begin if guard is None else begin_known if guard.authentication is None else begin_proved
        )
        self._threads = threads
        self._reading = reading
        self._interceptors = interceptors
        self.foreign = foreign
        self._limit = limit

    def build(self, handler: RpcHandler) -> ServedMethod | grpc.RpcMethodHandler[Any, Any]:
        """The method in bytes, for a transport; for foreign interceptors in messages, as they know it."""
        codec = RpcCodec(handler, raw=not self.foreign, limit=self._limit, reading=self._reading)
        if codec.raw:
            return ServedMethod(codec.shape, self._dispatch(codec))
        made = grpc_handler(codec.shape.value, self._dispatch(codec), codec.parse, codec.serialize)
        setattr(made, KEPT, {})
        return made

    def _dispatch(self, codec: RpcCodec) -> Callable[[Any, Any], Any]:
        if not codec.shape.response_streaming:
            return self._guarded(codec, self._responder(codec), codec.encode)
        if not self.foreign:
            # Responses go straight to the transport: no generator of ours stands between handler and wire.
            return self._guarded(codec, self._pusher(codec), _nothing)
        if self._interceptors or codec.handler.style is not Style.STREAM:
            return self._guarded_stream(codec, _relayed(codec, self._pusher(codec)), _as_it_is)
        return self._guarded_stream(codec, _iterator(codec.handler), codec.encode)

    # The guard is written twice: a coroutine and an async generator cannot share a `try` block. One
    # `async with` for both would cost every call half a microsecond more and double the cost of
    # dispatch.

    def _guarded(
        self, codec: RpcCodec, run: _Run, finish: Callable[[Any], Any]
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        """Admit a call, run its handler, and turn the handler's exceptions into a status.

        Args:
            run: Runs the handler.
            finish: Turns the handler's result into what is returned.
        """
        serving, calls, parse, aside = self.serving, self.serving.calls, codec.parse, codec.aside
        parses = codec.raw and not codec.shape.request_streaming
        reads = codec.raw and codec.shape.request_streaming
        access = serving.access
        admit = self._admit
        record = serving.record.method(codec.path) if serving.record is not None else None

        async def dispatch(request: Any, context: Any) -> Any:
            call = admit(context, codec, serving)
            if call is None:
                call = await begin_late(context, codec, serving)
            if record is not None:
                record.started += 1
            failed = False
            received = sent = None
            try:
                if parses:
                    if access is not None:
                        received = len(request)
                    request = parse(request) if aside is None else await aside(request)
                elif reads:
                    request = ReceivedRequests(context.read, parse, aside)
                response = finish(await run(request, call))
                if access is not None and type(response) is bytes:
                    sent = len(response)
                return response
            except BaseException as exc:
                failed = True
                return await refuse(call, context, codec, serving, exc)
            finally:
                code = ended_with(call, context, failed) if failed or call.coded else 0
                seconds = monotonic() - call.began
                if record is not None:
                    record.end(code, seconds)
                if access is not None or call.span is not None:
                    note_end(call, code, seconds, record, access, received, sent)
                call.leave()
                calls.discard(call)

        return dispatch

    def _guarded_stream(
        self, codec: RpcCodec, iterate: _Iterate, finish: Callable[[Any], Any]
    ) -> Callable[[Any, Any], AsyncIterator[Any]]:
        """The same guard for foreign interceptors, which iterate responses.

        Args:
            iterate: Runs the handler and yields its responses.
            finish: Turns each response into what is yielded.
        """
        serving, calls, access = self.serving, self.serving.calls, self.serving.access
        admit = self._admit
        record = serving.record.method(codec.path) if serving.record is not None else None

        async def dispatch(request: Any, context: Any) -> AsyncIterator[Any]:
            call = admit(context, codec, serving)
            if call is None:
                call = await begin_late(context, codec, serving)
            if record is not None:
                record.started += 1
            failed = outside = False
            try:
                responses = iterate(request, call)
                try:
                    async for message in responses:
                        given = finish(message)
                        outside = True
                        yield given
                        outside = False
                except BaseException:
                    await _close(responses, codec)
                    raise
            except BaseException as exc:
                failed = True
                if outside and isinstance(exc, GeneratorExit):
                    raise  # who iterates has closed this; it is not the handler's exception
                await refuse(call, context, codec, serving, exc)
            finally:
                code = ended_with(call, context, failed) if failed or call.coded else 0
                seconds = monotonic() - call.began
                if record is not None:
                    record.end(code, seconds)
                if access is not None or call.span is not None:
                    note_end(call, code, seconds, record, access)
                call.leave()
                calls.discard(call)

        return dispatch

    def _responder(self, codec: RpcCodec) -> _Run:
        """Calls a handler, through our interceptors, for one response."""
        interceptors, respond = self._interceptors, self._responder_bare(codec.handler)
        if not interceptors:
            return respond

        def responder(request: Any, call: CallContext) -> Awaitable[Any]:
            async def innermost() -> Any:
                response = await respond(await _request_for(call, request), call)
                codec.check(response)
                return await apply(call.response_mappers, response)

            return through(interceptors, call, innermost)

        return responder

    def _responder_bare(self, handler: RpcHandler) -> _Run:
        function = handler.function
        if handler.style is Style.UNIMPLEMENTED:
            return _not_overridden(handler)
        if handler.style is Style.THREAD:
            run = self._threads.run
            if handler.takes_context:
                return lambda request, call: run(function, request, call)
            return lambda request, call: run(function, request)
        if handler.takes_context:
            return function
        return lambda request, call: function(request)

    def _pusher(self, codec: RpcCodec) -> _Push:
        """Runs a handler, through our interceptors, and writes its responses."""
        interceptors, handler = self._interceptors, codec.handler
        push = _push_bare(codec) if not interceptors else _push_mapped(codec)
        if handler.style is Style.UNIMPLEMENTED:
            push = _not_overridden(handler)
        if not interceptors:
            return push

        async def intercepted(request: Any, call: CallContext) -> None:
            async def innermost() -> None:
                await push(await _request_for(call, request), call)

            await through(interceptors, call, innermost)

        return intercepted


def _iterator(handler: RpcHandler) -> _Iterate:
    function = handler.function
    if handler.takes_context:
        return function
    return lambda request, call: function(request)


def _relayed(codec: RpcCodec, push: _Push) -> _Iterate:
    """Pushed responses as an iterator."""
    name = f"pymicro-stream-{codec.path}"

    def iterate(request: Any, call: CallContext) -> AsyncIterator[Any]:
        relay = Relay()
        call.emit = relay.put
        return relay.messages(push(request, call), name)

    return iterate


def _push_bare(codec: RpcCodec) -> _Push:
    if codec.handler.style is Style.WRITER:
        return codec.handler.function
    iterate, encode = _iterator(codec.handler), codec.encode

    async def push(request: Any, call: CallContext) -> None:
        emit = call.emit
        responses = iterate(request, call)
        try:
            async for message in responses:
                await emit(encode(message))
        except BaseException as exc:
            try:
                if isinstance(exc, CallerGone):
                    await let_events_arrive()  # the cancellation of this call is on its way
            finally:
                await _close(responses, codec)
            raise

    return push


def _push_mapped(codec: RpcCodec) -> _Push:
    """Like `_push_bare`, but through `call.write`, which applies the interceptors' mappers."""
    if codec.handler.style is Style.WRITER:
        return codec.handler.function
    iterate = _iterator(codec.handler)

    async def push(request: Any, call: CallContext) -> None:
        responses = iterate(request, call)
        try:
            async for message in responses:
                await call.write(message)
        except BaseException:
            await _close(responses, codec)
            raise

    return push


async def _close(responses: Any, codec: RpcCodec) -> None:
    """Let an unfinished generator clean up, here in the call's own task."""
    aclose = getattr(responses, "aclose", None)
    if aclose is None:
        return
    try:
        await aclose()
    except Exception:
        # The reason why the stream ended matters more than a failure in the clean-up.
        log.exception("%s: cleaning up after %s failed", codec.path, codec.handler.label)


async def _request_for(call: CallContext, request: Any) -> Any:
    mappers = call.request_mappers
    if not mappers:
        return request
    if call.shape.request_streaming:
        return mapped(mappers, request)
    return await apply(mappers, request)


def _not_overridden(handler: RpcHandler) -> Callable[[Any, CallContext], Coroutine[Any, Any, Any]]:
    async def refuse_it(request: Any, call: CallContext) -> Any:
        raise NotOverridden(f"{handler.rpc.path} is in the proto, but this server does not implement it")

    return refuse_it


def _nothing(_: None) -> None:
    """Pushed responses have gone to grpc already, so nothing is left to return."""


def _as_it_is(message: Any) -> Any:
    return message
