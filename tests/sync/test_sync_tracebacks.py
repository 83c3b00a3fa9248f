"""What the traceback of a synchronous call's error has: the program's own frames, and one of pymicro's."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from pymicro import DeadlineExceeded
from pymicro.sync import Client
from tests.protos import zoo_pb2 as pb
from tests.protos import zoo_pb2_grpc as rpc
from tests.sync.conftest import Served

ANT = pb.Animal(name="ant")


def frames(error: BaseException) -> list[str]:
    """The functions in the traceback below the test's own; `pymicro` for each of pymicro's."""
    _, *found = traceback.extract_tb(error.__traceback__)
    return ["pymicro" if "/pymicro/" in frame.filename else frame.name for frame in found]


def called(stub: Any) -> None:
    stub.Import(ANT, timeout=0.0)


def called_for_the_call(stub: Any) -> None:
    stub.Import.with_call(ANT, timeout=0.0)


def called_in_the_future(stub: Any) -> None:
    stub.Import.future(ANT, timeout=0.0).result()


def called_with_a_stream(stub: Any) -> None:
    stub.Count(iter([ANT]), timeout=0.0)


def called_with_a_stream_for_the_call(stub: Any) -> None:
    stub.Count.with_call(iter([ANT]), timeout=0.0)


def iterated(stub: Any) -> None:
    list(stub.Watch(pb.Query(name="n:4"), timeout=0.0))


SHAPES = (
    called,
    called_for_the_call,
    called_in_the_future,
    called_with_a_stream,
    called_with_a_stream_for_the_call,
    iterated,
)


@pytest.mark.parametrize("call", SHAPES, ids=lambda call: call.__name__)
def test_an_error_shows_one_frame_of_pymicro(stub: Any, call: Callable[[Any], None]) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        call(stub)
    assert frames(caught.value) == [call.__name__, "pymicro"]


def requests() -> Iterator[Any]:
    yield ANT
    raise ValueError("no more animals")


def test_an_iterator_that_fails_is_shown_where_it_failed(stub: Any) -> None:
    with pytest.raises(ValueError, match="no more animals") as caught:
        stub.Count(requests())
    assert frames(caught.value) == ["pymicro", "requests"]
    with pytest.raises(ValueError, match="no more animals") as caught:
        list(stub.Talk(requests()))
    assert frames(caught.value) == ["pymicro", "requests"]


async def looked_up() -> None:
    raise LookupError("no token")


async def with_a_token(call: Any, proceed: Callable[[], Awaitable[Any]]) -> Any:
    await looked_up()


def test_an_interceptor_that_fails_is_shown_where_it_failed(served: Served) -> None:
    with Client(**served.settings, interceptors=[with_a_token]) as client:
        with pytest.raises(LookupError) as caught:
            rpc.KeeperStub(client.channel("zoo")).Import(ANT)
        # The call was made in another thread, whose way to the interceptor is left out.
        assert frames(caught.value) == ["pymicro", "with_a_token", "looked_up"]
