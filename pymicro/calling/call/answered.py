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

__all__ = ["Answered", "Iterated"]


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
        self.finish(_end(inside))

    def response(self) -> Any:
        return self._response


class Iterated(CallState):
    """A call whose responses come from an iterator that an interceptor returned.

    It ends with the iterator, or before it with the call inside if that one fails.
    """

    def __init__(self, called: Called, inside: Any, responses: Any) -> None:
        super().__init__(called)
        self._inside = inside
        self._responses: AsyncIterator[Any] = aiter(responses)
        self.node = getattr(inside, "node", None)
        self.run(self)
        if inside is not None:
            inside.add_done_callback(self._inside_ended)

    def _inside_ended(self, _: Any) -> None:
        end = _end(self._inside)
        if end.make_error is not None:
            self.finish(end)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            return await anext(self._responses)
        except StopAsyncIteration:
            self.finish(_end(self._inside))
            raise
        except Exception as exc:
            self.finish(End.failed(exc, self.called.callee, _end(self._inside)))
            raise StopAsyncIteration from None

    def fail(self, error: BaseException) -> bool:
        if self.phase is ENDED:
            return False
        self.finish(End.failed(error, self.called.callee, _end(self._inside)))
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
        elif self.phase is ENDED:
            self.end.raise_error()


def _end(inside: Any) -> End:
    """How a call of ours ended; OK without metadata for any other, or one that goes on."""
    state = getattr(inside, "_state", None)
    return state.end if isinstance(state, CallState) and state.phase is ENDED else End()
