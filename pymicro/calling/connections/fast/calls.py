"""What starts calls: on a session that has room, or as soon as there is one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from pymicro.base.deadlines import deadlines_of
from pymicro.calling.connections.fast.call import FastCall
from pymicro.calling.connections.fast.credentials import ask
from pymicro.calling.connections.transport import StartCall, Status
from pymicro_fast import Session

if TYPE_CHECKING:
    from pymicro.calling.connections.fast.arguments import Arguments
    from pymicro.calling.connections.method import Method

__all__ = ["CallStarter"]

_IDLE = grpc.ChannelConnectivity.IDLE
_FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE
_SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class CallStarter:
    """The half of a `NodeConnection` that is about its calls and its state.

    Attributes:
        loop: The event loop.
        deadlines: What watches its calls.
        arguments: Its settings.
        reason: Why the last attempt to connect failed, or the last session ended.
        closing: Whether this side closes it.
    """

    def __init__(self, arguments: Arguments) -> None:
        self.loop = asyncio.get_running_loop()
        self.deadlines = deadlines_of(self.loop)
        self.arguments = arguments
        self.reason: Any = None
        self.closing = False
        self._state = _IDLE
        self._changed: list[asyncio.Future[None]] = []
        self._waiting: OrderedDict[FastCall, None] = OrderedDict()
        self._listener: Callable[[], None] | None = None

    # For subclasses

    def free_session(self) -> Session | None:
        """A session that takes one more call now."""
        raise NotImplementedError

    def connect(self) -> None:
        """It is IDLE, and is to connect."""
        raise NotImplementedError

    def unreachable(self) -> str:
        """Why calls fail in TRANSIENT_FAILURE."""
        raise NotImplementedError

    def become(self, state: grpc.ChannelConnectivity) -> None:
        """Its state is this one now."""
        self._state = state
        waiters, self._changed = self._changed, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if state is _FAILED:
            waiting, self._waiting = self._waiting, OrderedDict()
            for call in waiting:
                call.fail(_UNAVAILABLE, self.unreachable())
        self.tell()

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Call this whenever the state has changed, or there may be room for one more call."""
        self._listener = listener

    def tell(self) -> None:
        """Tell the listener."""
        if self._listener is not None:
            self._listener()

    def start_waiting(self) -> None:
        """Start the calls that wait, as many as there is room for."""
        while self._waiting and (session := self.free_session()) is not None:
            self._waiting.popitem(last=False)[0].begin(session)

    def end_waiting(self) -> None:
        """It is closed: end the calls that wait."""
        for call in list(self._waiting):
            call.cancel()

    # See `NodeConnection`

    def state(self, connect: bool = False) -> grpc.ChannelConnectivity:
        """See `NodeConnection`."""
        if connect and self._state is _IDLE:
            self.connect()
        return self._state

    async def change(self, last: grpc.ChannelConnectivity) -> None:
        """See `NodeConnection`."""
        while self._state is last:
            waiter = self.loop.create_future()
            self._changed.append(waiter)
            await waiter

    def bind(self, method: Method) -> StartCall:
        """See `NodeConnection`."""
        path = method.path.encode("utf-8")
        streams = method.shape.response_streaming

        def start(
            request: bytes | None,
            /,
            *,
            timeout: float | None,
            metadata: Any,
            credentials: grpc.CallCredentials | None,
            compression: grpc.Compression | None,
        ) -> FastCall:
            call = FastCall(self, path, streams, request, timeout, metadata, compression)
            if credentials is not None:
                ask(credentials, call, self.arguments, method.path, self.wait)
                return call
            session = None if self._waiting else self.free_session()
            if session is None:
                self.wait(call)
            else:
                call.begin(session)
            return call

        return start

    def wait(self, call: FastCall) -> None:
        """Start a call as soon as there is a session with room; fail it if there will be none."""
        if call.code is not None:
            return
        if self._state is _IDLE:
            self.connect()
        if self._state is _FAILED:
            call.fail(_UNAVAILABLE, self.unreachable())
        elif self._state is _SHUTDOWN:
            call.cancel()
        else:
            self._waiting[call] = None
            self.start_waiting()

    def forget(self, call: FastCall) -> None:
        """A call that waits has ended."""
        self._waiting.pop(call, None)

    def code(self, call: Any) -> grpc.StatusCode | None:
        """See `NodeConnection`."""
        code: grpc.StatusCode | None = call.code
        return code

    async def last_word(self, call: Any) -> None:
        """See `NodeConnection`: the first word is the last one."""

    def cancelled_here(self, call: Any) -> bool:
        """See `NodeConnection`."""
        here: bool = call.ended_here
        return here

    def status(self, call: Any) -> Status:
        """See `NodeConnection`."""
        status: Status = call.status()
        return status
