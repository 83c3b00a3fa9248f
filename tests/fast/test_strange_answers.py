"""Answers that no server of gRPC's would give, frame by frame, and what a call makes of them."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from pymicro.rpc.wire.shape import Shape

from .raw import DATA, answering, frame, headers, message
from .test_connection import called, connection

Code = grpc.StatusCode

STATUS, KIND = (b":status", b"200"), (b"content-type", b"application/grpc")
OK, GONE = (b"grpc-status", b"0"), (b"grpc-status", b"5")
PACKED = (b"grpc-encoding", b"gzip")
EARLY, NOTE = (b":status", b"103"), (b"a", b"b")


def after(*pairs: tuple[bytes, bytes], data: bytes = b"hi", flag: int = 0) -> Callable[[int], bytes]:
    """An answer with a message, and these as its trailers."""
    return lambda on: headers(on, STATUS, KIND) + message(on, data, flag) + headers(on, *pairs, last=True)


def page(status: bytes, *, last: bool = True) -> Callable[[int], bytes]:
    """A proxy's page."""
    kind = (b"content-type", b"text/html")
    return lambda on: headers(on, (b":status", status), kind) + message(on, b"oops", ord("<"), last=last)


async def ended(answer: Callable[[int], bytes], shape: Shape) -> tuple[Any, list[bytes], Any]:
    """Code, messages and status of a call that is answered like that."""
    messages: list[bytes] = []
    async with answering(answer) as port, connection(f"127.0.0.1:{port}") as opened:
        call = called(opened, shape=shape)
        with contextlib.suppress(AioRpcError):
            if shape is Shape.UNARY_UNARY:
                messages.append(await call)  # type: ignore[arg-type]
            else:
                messages += [message async for message in call]
        return call.code, messages, call.status()


BOTH = pytest.mark.parametrize("shape", [Shape.UNARY_UNARY, Shape.UNARY_STREAM])


@BOTH
@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        # A proxy's page tells what is the matter, with a body and without an end too.
        (page(b"503"), Code.UNAVAILABLE, "status: 503"),
        (page(b"404"), Code.UNIMPLEMENTED, "status: 404"),
        (page(b"401", last=False), Code.UNAUTHENTICATED, "status: 401"),
        (page(b"200"), Code.UNKNOWN, "its content-type is 'text/html'"),
        # A status is one at the very end only, and never in what goes before.
        (
            lambda on: headers(on, STATUS, KIND, OK) + message(on, b"hi", last=True),
            Code.UNKNOWN,
            "without a grpc-status",
        ),
        (
            lambda on: headers(on, STATUS, KIND, OK) + message(on, b"hi") + headers(on, NOTE, last=True),
            Code.UNKNOWN,
            "without a grpc-status",
        ),
        (
            lambda on: headers(on, EARLY, OK) + after(NOTE)(on),
            Code.UNKNOWN,
            "without a grpc-status",
        ),
        # How messages are packed is said before they come, in the headers of the answer itself.
        (
            lambda on: headers(on, EARLY, PACKED) + after(OK, data=gzip.compress(b"hi"), flag=1)(on),
            Code.INTERNAL,
            "not known here",
        ),
        (after(PACKED, OK, data=gzip.compress(b"hi"), flag=1), Code.INTERNAL, "not known here"),
        # What follows the end of a packed message would be lost in silence.
        (
            lambda on: headers(on, STATUS, KIND, PACKED)
            + message(on, gzip.compress(b"hi") + gzip.compress(b"ho"), 1)
            + headers(on, OK, last=True),
            Code.INTERNAL,
            "something follows its end",
        ),
    ],
)  # fmt: skip
async def test_an_answer_that_is_none(
    answer: Callable[[int], bytes], code: grpc.StatusCode, words: str, shape: Shape
) -> None:
    found, _, status = await ended(answer, shape)
    assert found is code
    assert words in status.details


@BOTH
@pytest.mark.parametrize(
    "answer",
    [
        lambda on: headers(on, EARLY, GONE, (b"grpc-message", b"early")) * 2 + after(OK)(on),
        after(OK, (b"grpc-message", b"OK has no text")),
        after(OK, KIND, (b"grpc-accept-encoding", b"none")),
        lambda on: headers(on, STATUS, KIND, PACKED)
        + message(on, gzip.compress(b"hi"), 1)
        + headers(on, OK, last=True),
    ],
)  # fmt: skip
async def test_an_odd_answer_that_is_one(answer: Callable[[int], bytes], shape: Shape) -> None:
    code, messages, status = await ended(answer, shape)
    assert (code, messages, status.details) == (Code.OK, [b"hi"], "")


@BOTH
async def test_a_packed_message_of_no_bytes_is_empty(shape: Shape) -> None:
    code, messages, _ = await ended(
        lambda on: headers(on, STATUS, KIND, PACKED) + message(on, b"", 1) + headers(on, OK, last=True), shape
    )
    assert (code, messages) == (Code.OK, [b""])


@pytest.mark.parametrize("rest", [b"\0", b"\7", b"\0\0\0\0\0", b"\2\0\0\0\0", b"\0\xff\xff\xff\xff"])
async def test_bytes_behind_the_only_response_are_no_success(rest: bytes) -> None:
    code, messages, _ = await ended(
        lambda on: (
            headers(on, STATUS, KIND)
            + frame(DATA, 0, on, b"\0\0\0\0\2hi" + rest)
            + headers(on, OK, last=True)
        ),
        Shape.UNARY_UNARY,
    )
    assert code is Code.INTERNAL
    assert messages == []


async def test_metadata_keeps_its_spaces_and_what_is_sound() -> None:
    def answer(on: int) -> bytes:
        first = headers(on, STATUS, KIND, (b"padded", b" a b "), (b"x-bin", b"AA=="), (b"y-bin", b"***"))
        return first + message(on, b"hi") + headers(on, OK, (b"z-bin", b"A"), (b"late", b" "), last=True)

    _, _, status = await ended(answer, Shape.UNARY_UNARY)
    assert tuple(status.initial) == (("padded", " a b "), ("x-bin", b"\0"))
    assert tuple(status.trailing) == (("late", " "),)
