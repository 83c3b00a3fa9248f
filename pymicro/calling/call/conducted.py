"""Calls through interceptors, outside pick and retries: interceptors run once for each call of the user.

grpc.aio's own intercepted calls end in a private channel of grpc.aio, so they cannot run above
a pick. Here interceptors of grpc.aio's four classes and of our own form run in any order, the
first one outermost, and each is handed an object that is a `grpc.aio.Call`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from pymicro.base.errors import PymicroError
from pymicro.calling.call.answered import Answered, Iterated, ended_well
from pymicro.calling.call.end import End
from pymicro.calling.call.layers import Layers, foreign_method
from pymicro.calling.call.objects import CALLS, _Call
from pymicro.calling.call.outgoing import OutgoingCall
from pymicro.calling.call.starting import innermost
from pymicro.calling.call.state import WAITING, CallState
from pymicro.calling.call.writes import Writes
from pymicro.rpc.interceptors import Interceptor, apply
from pymicro.rpc.status import DeadlineExceeded

if TYPE_CHECKING:
    from pymicro.calling.call.called import Called

__all__ = ["Conducted"]

Details = grpc.aio.ClientCallDetails


class Conducted(CallState):
    """A call inside interceptors: one task runs them, and sees the call to its end.

    Interceptors of our own form that follow each other are one layer: the call ends when the
    outermost of them returns, and then it is answered as that one says. Inside an interceptor of
    grpc.aio's classes they are a call of their own, with its own `Conducted`.

    Args:
        called: The method that is called.
        layers: What is to run, the first one outermost; at least one.
        request: The request, or the iterator of requests.
        timeout: Seconds for the call; None for no limit.
        compression: As it was given; interceptors do not see it.
    """

    _timer: asyncio.TimerHandle | None = None
    _map_error: Exception | None = None
    _response: Any = None

    def __init__(
        self,
        called: Called,
        layers: Layers,
        request: Any,
        timeout: float | None,
        compression: grpc.Compression | None,
    ) -> None:
        super().__init__(called)
        self._layers = layers
        self._request = request
        self._timeout = timeout
        self._compression = compression
        self._outgoing: list[OutgoingCall] = []
        self._inside_calls: list[_Call] = []
        self.iterates = called.streams and not isinstance(request, Writes)
        if timeout is not None:
            loop = called.channel.loop
            self.deadline = loop.time() + timeout
            self._timer = loop.call_at(self.deadline, self._overdue)

    def begin(self, details: Details) -> None:
        """Start the interceptors."""
        channel = self.called.channel
        channel.live.add(self)
        task = channel.tasks.start(
            self._conduct(details), f"interceptors of {self.called.path}", inherit=True
        )
        if not task.done():
            self.task = task

    async def _conduct(self, details: Details) -> None:
        try:
            if isinstance(self._layers[0], tuple):
                self._response = await self._enter(self._layers[0], details, self._request)
                end = ended_well(self.inner)
            else:
                call = await self._proceed(self._layers, details, self._request)
                self.run(call)
                end = await self._see_to_end(call)
        except Exception as exc:
            if isinstance(exc, grpc.aio.AioRpcError):
                exc.__traceback__ = None  # it would hold this frame, and so itself
            end = End.failed(exc, self.called.callee, ended_well(self.inner))
        except BaseException:  # cancelled; or what ends the loop, and whoever waits in another thread stays
            self.cancel()
            raise
        self.task = None
        self.finish(end)

    async def _see_to_end(self, call: Any) -> End:
        """How the call ended that the interceptors returned, or what they did in its place."""
        if isinstance(call, _Call):
            end = await call._state.outcome()
            if end.make_error is None and self.called.one_response:
                self._response = call._state.response()
            return end
        if self.called.one_response:
            self._response = await call
        return await End.of(call, self.called.callee)

    # Layers

    async def _proceed(self, layers: Layers, details: Details, request: Any) -> Any:
        """Run the rest of the chain; the call that runs then."""
        called = self.called
        layer = layers[0] if layers else ()
        if isinstance(layer, tuple):
            details = details._replace(timeout=self._left(details.timeout))  # type: ignore[attr-defined]
            if not layer:
                return self._remember(
                    CALLS[called.shape](innermost(called, details, request, self._compression))
                )
            state = Conducted(called, layers, request, details.timeout, self._compression)
            call = self._remember(CALLS[called.shape](state))
            state.begin(details)
            await state.begun()
            return call
        inside: Any = None

        async def proceed(details: Details, request: Any) -> Any:
            nonlocal inside
            inside = await self._proceed(layers[1:], details, request)
            return inside

        result = await getattr(layer, foreign_method(called.shape))(proceed, details, request)
        if isinstance(result, grpc.aio.Call):
            return result
        return CALLS[called.shape](
            Iterated(called, inside, result)
            if called.shape.response_streaming
            else Answered(called, inside, result)
        )

    def _remember(self, call: _Call) -> _Call:
        """Remember a call that was made inside: it must not outlive this one if this one is cancelled."""
        self._inside_calls = [made for made in self._inside_calls if not made.done()]
        self._inside_calls.append(call)
        return call

    async def _enter(self, interceptors: tuple[Interceptor, ...], details: Details, request: Any) -> Any:
        """Run interceptors of our own form, and then the rest of the chain; the response."""
        if not interceptors:
            return await self._inside(details, request)
        call = OutgoingCall(self.called, details, request)
        depth = len(self._outgoing)
        self._outgoing.append(call)

        async def proceed() -> Any:
            if len(self._outgoing) > depth + 1 or self.inner is not None:
                self._check_again()
                del self._outgoing[depth + 1 :]
            response = await self._enter(interceptors[1:], call._details(), await call._requests())
            return await apply(call._response_maps, response) if self.called.one_response else None

        return await interceptors[0](call, proceed)

    def _check_again(self) -> None:
        """Whether the call may be made a second time."""
        shape = self.called.shape
        for streams, what in ((shape.request_streaming, "requests"), (shape.response_streaming, "responses")):
            if streams:
                raise PymicroError(
                    f"proceed() can be called once only where {what} are a stream, as in {self.called.path}"
                )

    async def _inside(self, details: Details, request: Any) -> Any:
        call = await self._proceed(self._layers[1:], details, request)
        if self.called.shape.response_streaming:
            self.maps = self._outgoing
        self.run(call)
        if self.called.one_response:
            return await call
        try:
            end = await self._see_to_end(call)
        except asyncio.CancelledError:
            call.cancel()
            raise
        if self._map_error is not None:
            raise self._map_error
        if (make_error := end.make_error) is not None:
            raise make_error()
        return None

    def _left(self, timeout: float | None) -> float | None:
        """What is left of the call's timeout; one that an interceptor has changed counts from now."""
        if self.deadline is None or timeout != self._timeout:
            return timeout
        return self.deadline - self.called.channel.loop.time()

    def _overdue(self) -> None:
        if self.phase is WAITING:  # a call that runs has its own deadline
            self.fail(
                DeadlineExceeded(
                    f"the timeout of {self._timeout} s was over while interceptors held the call",
                    from_peer=False,
                )
            )

    # The state

    def run(self, inner: Any) -> None:
        self.node = getattr(inner, "node", None)
        self.made = getattr(inner, "attempts", 0)
        super().run(inner)

    def fail(self, error: BaseException) -> bool:
        if not super().fail(error):
            return False
        for call in self._inside_calls:  # an interceptor may hold it back, and wait for its code only
            call.cancel()
        if isinstance(self.inner, _Call) and self.inner.done():  # what has come has come
            self.end.initial = self.end.initial or self.inner._state.end.initial
        return True

    def finish(self, end: End | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().finish(end)

    def response(self) -> Any:
        return self._response

    async def mapped(self, message: Any) -> Any:
        try:
            for call in reversed(self._outgoing):
                message = await apply(call._response_maps, message)
        except Exception as exc:
            # The interceptors learn of it as of any error of the call, and decide what becomes of it.
            self._map_error = exc
            self.inner.cancel()
            await self.outcome()
            return grpc.aio.EOF
        return message
