"""From a grpc call to a handler: built once per method, nothing inspected per call.

path → grpc.aio interceptors → here: admission → call context → exceptions to status →
our interceptors → handler
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import grpc

from pymicro.rpc.grpcio import CallerGone, let_events_arrive
from pymicro.rpc.interceptors import Interceptor, apply, mapped, through
from pymicro.serving.call.admission import begin, refuse_start
from pymicro.serving.call.context import CallContext, Serving
from pymicro.serving.call.refusal import NotOverridden, refuse
from pymicro.serving.call.relay import Relay
from pymicro.serving.call.requests import Requests
from pymicro.serving.call.route import Route, Unparsable
from pymicro.serving.call.threads import HandlerThreads
from pymicro.serving.handlers.types import Method, Style

__all__ = ["Dispatcher"]

log = logging.getLogger("pymicro.server")

_Run = Callable[[Any, CallContext], Awaitable[Any]]
_Push = Callable[[Any, CallContext], Coroutine[Any, Any, None]]
_Iterate = Callable[[Any, CallContext], AsyncIterator[Any]]


class Dispatcher:
    """Makes grpc's method handlers out of ours.

    Args:
        interceptors: Ours, the first one outermost.
        foreign: Whether grpc.aio interceptors stand outside, which want to see
            messages and to iterate response streams.
        limit: Largest response in bytes.
    """

    def __init__(
        self,
        serving: Serving,
        threads: HandlerThreads,
        *,
        interceptors: tuple[Interceptor, ...] = (),
        foreign: bool = False,
        limit: int,
    ) -> None:
        self._serving = serving
        self._threads = threads
        self._interceptors = interceptors
        self._foreign = foreign
        self._limit = limit

    def build(self, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        """The method as grpc serves it."""
        route = Route(method, raw=not self._foreign, limit=self._limit)
        shape = route.shape
        make = getattr(grpc, f"{shape.value}_rpc_method_handler")
        made: grpc.RpcMethodHandler[Any, Any] = make(
            self._dispatch(route),
            request_deserializer=route.parse if shape.request_streaming else route.parse_unary,
            response_serializer=None if route.raw else route.serialize,
        )
        return made

    def _dispatch(self, route: Route) -> Callable[[Any, Any], Any]:
        if not route.shape.response_streaming:
            return self._guarded(route, self._responder(route), route.encode)
        if not self._foreign:
            # Responses go straight to grpc: no generator of ours between the handler's and the wire.
            return self._guarded(route, self._pusher(route), _nothing)
        if self._interceptors or route.method.style is not Style.STREAM:
            return self._guarded_stream(route, _relayed(route, self._pusher(route)), _as_it_is)
        return self._guarded_stream(route, _iterator(route.method), route.encode)

    # The guard. A coroutine and an async generator cannot share a `try` block, so it stands twice.
    # As one `async with` for both it would cost every call half a microsecond more, and
    # double what dispatch costs.

    def _guarded(
        self, route: Route, run: _Run, finish: Callable[[Any], Any]
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        """Admit a call, run its handler, and turn what that raises into a status.

        Args:
            run: Runs the handler.
            finish: Makes of its result what grpc gets.
        """
        serving, calls = self._serving, self._serving.calls
        streams = route.shape.request_streaming

        async def dispatch(request: Any, context: Any) -> Any:
            call = begin(context, route, serving)
            if call is None:
                await refuse_start(context, route, serving)
            try:
                if type(request) is Unparsable:
                    raise request.error
                if streams:
                    request = Requests(request)
                return finish(await run(request, call))
            except BaseException as exc:
                return await refuse(call, context, route, exc)
            finally:
                call.active = False
                calls.discard(call)

        return dispatch

    def _guarded_stream(
        self, route: Route, iterate: _Iterate, finish: Callable[[Any], Any]
    ) -> Callable[[Any, Any], AsyncIterator[Any]]:
        """The same for foreign interceptors, which iterate responses.

        Args:
            iterate: Runs the handler and gives its responses.
            finish: Makes of each what grpc gets.
        """
        serving, calls = self._serving, self._serving.calls
        streams = route.shape.request_streaming

        async def dispatch(request: Any, context: Any) -> AsyncIterator[Any]:
            call = begin(context, route, serving)
            if call is None:
                await refuse_start(context, route, serving)
            try:
                if type(request) is Unparsable:
                    raise request.error
                responses = iterate(Requests(request) if streams else request, call)
                try:
                    async for message in responses:
                        yield finish(message)
                except BaseException:
                    await _close(responses, route)
                    raise
            except BaseException as exc:
                await refuse(call, context, route, exc)
            finally:
                call.active = False
                calls.discard(call)

        return dispatch

    def _responder(self, route: Route) -> _Run:
        """Calls a handler, through our interceptors, for one response."""
        interceptors, respond = self._interceptors, self._responder_bare(route.method)
        if not interceptors:
            return respond

        def responder(request: Any, call: CallContext) -> Awaitable[Any]:
            async def innermost() -> Any:
                response = await respond(await _request_for(call, request), call)
                route.check(response)
                return await apply(call.response_mappers, response)

            return through(interceptors, call, innermost)

        return responder

    def _responder_bare(self, method: Method) -> _Run:
        function = method.function
        if method.style is Style.UNIMPLEMENTED:
            return _not_overridden(method)
        if method.style is Style.THREAD:
            run = self._threads.run
            if method.takes_context:
                return lambda request, call: run(function, request, call)
            return lambda request, call: run(function, request)
        if method.takes_context:
            return function
        return lambda request, call: function(request)

    def _pusher(self, route: Route) -> _Push:
        """Runs a handler, through our interceptors, and writes its responses."""
        interceptors, method = self._interceptors, route.method
        push = _push_bare(route) if not interceptors else _push_mapped(route)
        if method.style is Style.UNIMPLEMENTED:
            push = _not_overridden(method)
        if not interceptors:
            return push

        async def intercepted(request: Any, call: CallContext) -> None:
            async def innermost() -> None:
                await push(await _request_for(call, request), call)

            await through(interceptors, call, innermost)

        return intercepted


def _iterator(method: Method) -> _Iterate:
    function = method.function
    if method.takes_context:
        return function
    return lambda request, call: function(request)


def _relayed(route: Route, push: _Push) -> _Iterate:
    """Responses that are pushed, as an iterator."""
    name = f"pymicro-stream-{route.path}"

    def iterate(request: Any, call: CallContext) -> AsyncIterator[Any]:
        relay = Relay()
        call.emit = relay.put
        return relay.messages(push(request, call), name)

    return iterate


def _push_bare(route: Route) -> _Push:
    if route.method.style is Style.WRITER:
        return route.method.function
    iterate, encode = _iterator(route.method), route.encode

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
                await _close(responses, route)
            raise

    return push


def _push_mapped(route: Route) -> _Push:
    """Like `_push_bare`, but through `call.write`, which knows the interceptors' mappers."""
    if route.method.style is Style.WRITER:
        return route.method.function
    iterate = _iterator(route.method)

    async def push(request: Any, call: CallContext) -> None:
        responses = iterate(request, call)
        try:
            async for message in responses:
                await call.write(message)
        except BaseException:
            await _close(responses, route)
            raise

    return push


async def _close(responses: Any, route: Route) -> None:
    """Let a generator that is not exhausted clean up, here in the call's own task."""
    aclose = getattr(responses, "aclose", None)
    if aclose is None:
        return
    try:
        await aclose()
    except Exception:
        # What ended the stream matters more than what the clean-up met.
        log.exception("%s: cleaning up after %s failed", route.path, route.method.label)


async def _request_for(call: CallContext, request: Any) -> Any:
    mappers = call.request_mappers
    if not mappers:
        return request
    if call.shape.request_streaming:
        return mapped(mappers, request)
    return await apply(mappers, request)


def _not_overridden(method: Method) -> Callable[[Any, CallContext], Coroutine[Any, Any, Any]]:
    async def refuse_it(request: Any, call: CallContext) -> Any:
        raise NotOverridden(f"{method.rpc.path} is in the proto, but this server does not implement it")

    return refuse_it


def _nothing(_: None) -> None:
    """Pushed responses have gone to grpc already."""


def _as_it_is(message: Any) -> Any:
    return message
