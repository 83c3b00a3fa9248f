"""The one form of interceptor, for all four shapes on both sides.

    async def timing(call, proceed):
        started = time.monotonic()
        try:
            return await proceed()
        finally:
            log.info("%s took %.3f s", call.method, time.monotonic() - started)

`proceed()` runs the rest of the call: the next interceptor, or finally the
handler or the network. It returns the response, or None for a response stream
once that stream has ended, and raises the call's exception. An interceptor
returns the result of `proceed()`, or another response of the right type; it may
turn one exception into another, or raise instead of proceeding. It sees and
replaces single messages through `call.map_requests` and `call.map_responses`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Protocol

from pymicro.base.printable import excerpt
from pymicro.rpc.wire.shape import Shape

__all__ = ["InterceptedCall", "Interceptor", "Mapper", "Proceed", "apply", "mapped", "through"]

Proceed = Callable[[], Awaitable[Any]]
Mapper = Callable[[Any], Any]
Interceptor = Callable[[Any, Proceed], Awaitable[Any]]


class InterceptedCall(Protocol):
    """A call as an interceptor sees it, on either side."""

    @property
    def method(self) -> str:
        """`/package.Service/Method`."""
        ...

    @property
    def shape(self) -> Shape:
        """Which sides stream."""
        ...

    @property
    def metadata(self) -> Any:
        """The request's metadata."""
        ...

    def map_requests(self, mapper: Mapper) -> None:
        """Pass every request message through `mapper`, a plain or coroutine function.

        Call this before `proceed()`. The mapper returns the message to use instead, or
        the same one. Outer interceptors' mappers see a request first.
        """
        ...

    def map_responses(self, mapper: Mapper) -> None:
        """Pass every response message through `mapper`; inner interceptors' mappers see it first."""
        ...


async def through(
    interceptors: tuple[Interceptor, ...],
    call: InterceptedCall,
    innermost: Callable[[], Awaitable[Any]],
    index: int = 0,
) -> Any:
    """Run a call through interceptors, the first one outermost, and finally through `innermost`."""
    if index == len(interceptors):
        return await innermost()
    proceeded = False

    def proceed() -> Awaitable[Any]:
        nonlocal proceeded
        if proceeded:
            raise RuntimeError(
                f"interceptor {excerpt(interceptors[index])} proceeded twice with {call.method}"
            )
        proceeded = True
        return through(interceptors, call, innermost, index + 1)

    return await interceptors[index](call, proceed)


async def apply(mappers: Iterable[Mapper], message: Any) -> Any:
    """The message after all mappers, applied in the order given."""
    for mapper in mappers:
        message = mapper(message)
        if inspect.isawaitable(message):
            message = await message
    return message


async def mapped(mappers: tuple[Mapper, ...], messages: AsyncIterable[Any]) -> AsyncIterator[Any]:
    """The messages of a stream, each after all mappers."""
    async for message in messages:
        yield await apply(mappers, message)
