"""What a call on the network answers: its one response, or a stream of them."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import grpc
from grpc.aio import AioRpcError

from pymicro.calling.call.end import End
from pymicro.calling.call.measured import Measured
from pymicro.calling.call.state import ENDED, meant_for_us
from pymicro.rpc.status import RpcError

if TYPE_CHECKING:
    from pymicro.calling.connections.target import Target

__all__ = ["Responses"]

_OK = grpc.StatusCode.OK


class Responses(Measured):
    """A call whose responses are read from its last attempt; what cannot be read ends it."""

    _target: Target
    _heard = False  # whether the first response of a stream has come
    _response: Any = None
    _answered = False  # whether the one response was read

    def result(self, holder: object = None) -> Generator[Any, None, Any]:
        self._awaited = True
        try:
            while True:
                inner = self.inner
                try:
                    if inner is None and self.phase is not ENDED:
                        yield from self._waiter()
                        continue
                    if self.phase is ENDED and (self._answered or self.code is not _OK or self._failure):
                        break
                    data = yield from inner.__await__()
                except AioRpcError:
                    yield from self.settled(inner).__await__()
                except asyncio.CancelledError:
                    if meant_for_us():
                        self.cancel()
                        raise
                    yield from self.settled(inner).__await__()
                else:
                    self._answer(data)
                    break
        finally:
            self._awaited = False
            if self._owed:  # it was cancelled just before the response came to it
                self.write_end()
        if not self._answered and (make_error := self.end.make_error) is not None:
            raise make_error()
        return self._response

    def response(self) -> Any:
        return self._response

    def received(self, message: Any) -> Any:
        self.committed = True
        if not self._heard:
            self._heard = True
            try:
                self._target.chooser.answered(self._found[0])
            except Exception as exc:  # of a plug-in's balancer; it must fail no call
                self._target.balancer_failed(exc)
        try:
            return self.called.method.parse(message)
        except RpcError as exc:
            exc.node = self.node
            self.fail(exc)
            raise

    def _answer(self, data: bytes | None) -> None:
        """Read the response; if it cannot be read, that is the end of the call."""
        if self._answered:
            return
        self._answered = True
        try:
            self._response = self.called.method.parse(data)
        except RpcError as exc:
            self._answered = False
            exc.node = self.node
            self._failure = exc
            self._end = None
        if self._owed:
            self.write_end()
        if self._callbacks and self.phase is ENDED:
            super().tell()  # before the code that awaits the call goes on

    async def outcome(self) -> End:
        while self.phase is not ENDED:
            await self.change()
        if self._unread():
            self._answer(await self.inner)
        return self.end

    def tell(self) -> None:
        tasks = self.called.channel.tasks
        if self._unread() and not tasks.closed:
            tasks.start(self.outcome(), f"end of {self.called.path}", inherit=True)
        else:
            super().tell()

    def _unread(self) -> bool:
        return self.called.one_response and self.code is _OK and not (self._answered or self._failure)
