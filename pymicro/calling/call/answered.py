"""Calls that an interceptor answered itself: with a response, or with an iterator of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from pymicro.calling.call.end import End
from pymicro.calling.call.state import ENDED, CallState

if TYPE_CHECKING:
    from pymicro.calling.call.called import Called

__all__ = ["Answered", "Iterated", "ended_well"]


class Answered(CallState):
    """A call that has ended OK with a response that an interceptor gave.

    Args:
        called: The method that is called.
        inside: The call that the interceptor made; None if it made none. Its metadata are the call's.
        response: The response.
    """

    def __init__(self, called: Called, inside: Any, response: Any) -> None:
        super().__init__(called)
        self._response = response
        self.node = getattr(inside, "node", None)
        self.finish(ended_well(inside))

    def response(self) -> Any:
        return self._response


class Iterated(CallState):
    """A call whose responses come from an iterator that an interceptor returned.

    It ends with the iterator, which may make a success of an error. While nobody waits for the
    iterator, the call inside ends it too, if that one fails.
    """

    _reading = False

    def __init__(self, called: Called, inside: Any, responses: Any) -> None:
        super().__init__(called)
        self._inside = inside
        self._responses: AsyncIterator[Any] = aiter(responses)
        self.node = getattr(inside, "node", None)
        self.run(self)
        if inside is not None:
            inside.add_done_callback(self._inside_ended)

    def _inside_ended(self, _: Any) -> None:
        state = getattr(self._inside, "_state", None)
        if not self._reading and isinstance(state, CallState) and state.end.make_error is not None:
            self.finish(state.end)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        self._reading = True
        try:
            return await anext(self._responses)
        except StopAsyncIteration:
            self.finish(ended_well(self._inside))
            raise
        except Exception as exc:
            self.finish(End.failed(exc, self.called.callee, ended_well(self._inside)))
            raise StopAsyncIteration from None
        finally:
            self._reading = False

    def fail(self, error: BaseException) -> bool:
        if self.phase is ENDED:
            return False
        self.finish(End.failed(error, self.called.callee, ended_well(self._inside)))
        if self._inside is not None:
            self._inside.cancel()
        return True

    async def initial_metadata(self) -> Any:
        if self._inside is None or self.phase is ENDED:
            return self.end.initial if self.phase is ENDED else grpc.aio.Metadata()
        return await self._inside.initial_metadata()

    async def wait_for_connection(self) -> None:
        if self.phase is not ENDED and self._inside is not None:
            await self._inside.wait_for_connection()
        elif self.phase is ENDED and (make_error := self.end.make_error) is not None:
            raise make_error()


def ended_well(inside: Any) -> End:
    """OK, with the metadata of the call inside, if that is one of ours and has ended, however it did."""
    state = getattr(inside, "_state", None)
    if isinstance(state, CallState) and state.phase is ENDED:
        return End(initial=state.end.initial, trailing=state.end.trailing)
    return End()
