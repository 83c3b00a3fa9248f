"""Whether one function fits one rpc; each way in which it does not is a mismatch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

from pymicro.base.errors import HandlerMismatch
from pymicro.serving.handlers.annotations import is_awaitable, message_fits, show, stream_fits
from pymicro.serving.handlers.inspection import FunctionKind, Inspected, inspect_handler
from pymicro.serving.handlers.types import Rpc, Style

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pymicro.rpc.wire.shape import Shape

__all__ = ["fit"]

_HINTS = {
    (FunctionKind.COROUTINE, True): "yield the responses instead of returning them",
    (FunctionKind.STREAM, False): "return the response instead of yielding it",
    (FunctionKind.FUNCTION, True): "make it `async def` and yield the responses",
    (FunctionKind.FUNCTION, False): "make it `async def`: only unary rpcs may be served by plain functions",
    (FunctionKind.GENERATOR, True): "make it `async def`",
    (FunctionKind.GENERATOR, False): "return the response instead of yielding it",
}


def fit(
    function: Callable[..., Any], rpc: Rpc, label: str, *, writers: bool
) -> tuple[Style | None, Inspected, list[HandlerMismatch]]:
    """Check a bound function against an rpc.

    Args:
        writers: Whether a coroutine may serve a response stream by writing to
            the context, as grpc's servicers may.

    Returns:
        How to run it (None if it cannot be run), its signature, and the mismatches.
    """
    seen = inspect_handler(function)
    mismatches = []

    def mismatch(expected: str, found: str, hint: str = "") -> None:
        mismatches.append(HandlerMismatch(seen.where, f"{label} for {rpc.path}", expected, found, hint))

    style = _style(seen.kind, rpc.shape, writers and seen.arity == 2)
    if style is None:
        streams = rpc.shape.response_streaming
        expected = FunctionKind.STREAM.value if streams else FunctionKind.COROUTINE.value
        why = "the proto has a response stream" if streams else "the proto has one response"
        mismatch(f"{expected}: {why}", seen.kind.value, _HINTS[seen.kind, streams])
    if seen.arity is None:
        mismatch(
            "one parameter (request) or two (request, context) besides self",
            seen.parameters,
            "a decorator around it needs functools.wraps" if "*" in seen.parameters else "",
        )
    _check_request(seen, rpc, mismatch)
    if style is not None and style is not Style.WRITER:
        _check_response(seen, style, rpc.response_type, mismatch)
    return style, seen, mismatches


def _style(kind: FunctionKind, shape: Shape, writers: bool) -> Style | None:
    if shape.response_streaming:
        if kind is FunctionKind.COROUTINE and writers:
            return Style.WRITER
        return Style.STREAM if kind is FunctionKind.STREAM else None
    if kind is FunctionKind.COROUTINE:
        return Style.COROUTINE
    # A thread could read a request stream only by waiting for the loop at each message.
    return Style.THREAD if kind is FunctionKind.FUNCTION and not shape.request_streaming else None


def _check_request(seen: Inspected, rpc: Rpc, mismatch: Callable[[str, str], None]) -> None:
    expected = rpc.request_type
    if expected is None:
        return
    if rpc.shape.request_streaming:
        if not stream_fits(seen.request, expected):
            mismatch(f"requests: {_stream(expected)}", f"requests: {show(seen.request)}")
    elif not message_fits(seen.request, expected):
        mismatch(f"request: {show(expected)}", f"request: {show(seen.request)}")


def _check_response(
    seen: Inspected, style: Style, expected: type[Message] | None, mismatch: Callable[[str, str], None]
) -> None:
    if expected is None:
        return
    if style is Style.STREAM:
        if not stream_fits(seen.response, expected):
            mismatch(f"responses: {_stream(expected)}", f"responses: {show(seen.response)}")
    elif not (message_fits(seen.response, expected) or _awaited_fits(seen, expected)):
        mismatch(f"response: {show(expected)}", f"response: {show(seen.response)}")


def _awaited_fits(seen: Inspected, expected: type[Message]) -> bool:
    # `def say_hello(...) -> Awaitable[Reply]`; a coroutine function's annotation is the awaited type.
    args = get_args(seen.response)
    return is_awaitable(seen.response) and (not args or message_fits(args[-1], expected))


def _stream(expected: type[Message]) -> str:
    return f"AsyncIterator[{show(expected)}]"
