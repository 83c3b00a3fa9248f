"""Metadata that gRPC does not send: a call's own is an error that says so, a forwarded one is left out."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc.aio
import pytest

import pymicro
from greeter.v1 import greeter_pb2 as pb
from pymicro.rpc import scope as scopes

from . import backends
from .backends import connected, count_down, greeter, hello, stub


async def _say(stub: Any, **given: Any) -> None:
    await stub.SayHello(hello(), **given)


async def _count(stub: Any, **given: Any) -> None:
    assert [reply.number async for reply in stub.CountDown(count_down(2), **given)] == [2, 1]


async def _collect(stub: Any, **given: Any) -> None:
    await stub.GreetAll(iter([hello()]), **given)


async def _write(stub: Any, **given: Any) -> None:
    call = stub.GreetAll(**given)
    await call.write(hello())
    await call.done_writing()
    await call


async def _chat(stub: Any, **given: Any) -> None:
    call = stub.Chat(iter([pb.ChatMessage(text="a")]), **given)
    assert (await call.read()).text == "A"


SHAPES = pytest.mark.parametrize("made", [_say, _count, _collect, _write, _chat])
Made = Callable[..., Any]

BAD = [
    ((("X Up", "a"),), "'x up' may only have letters, digits"),
    ((("", "a"),), "'' may only have letters, digits"),
    (((":path", "/a"),), "':path' may only have letters, digits"),
    ((("ké", "a"),), "'ké' may only have letters, digits"),
    (((b"k", "a"),), "key b'k' is no text"),
    ((("k", 5),), "metadata k must be text, not int"),
    ((("k", None),), "metadata k must be text, not NoneType"),
    ((("k", "two\nlines"),), "metadata k may only have printable ASCII; name it k-bin"),
    ((("good", "a"), ("k", "Zoë")), "metadata k may only have printable ASCII; name it k-bin"),
    ((("k-bin", "text"),), "metadata k-bin is binary by its name: its value must be bytes, not str"),
    ({"ab": "x"}, "metadata is pairs of key and value, and not str"),
    ((("k", "a", "b"),), "metadata is pairs of key and value, and not tuple"),
    ((7,), "metadata is pairs of key and value, and not int"),
    (5, "'int' object is not iterable"),
]


@SHAPES
@pytest.mark.parametrize(("metadata", "why"), BAD)
async def test_a_callers_own_metadata_that_cannot_be_sent_is_an_invalid_argument(
    made: Made, metadata: Any, why: str
) -> None:
    async with greeter() as (client, _, [server]):
        with pytest.raises(pymicro.InvalidArgument) as caught:
            await made(stub(client), metadata=metadata)
        assert why in (caught.value.details() or "")
        assert caught.value.from_peer is False
        assert caught.value.node is None
        assert server.calls == 0


async def test_how_a_call_ended_that_cannot_be_sent_is_told_in_every_way() -> None:
    ended = []
    async with greeter() as (client, _, _):
        call = stub(client).SayHello(hello(), metadata=(("k", 5),))
        call.add_done_callback(ended.append)
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "must be text" in await call.details()
        assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)
        assert ended == [call]


async def test_a_value_that_cannot_be_sent_is_not_repeated_in_the_error() -> None:
    async with greeter() as (client, _, _):
        for metadata in ((("authorization", "secret\n"),), (("authorization-bin", "secret"),)):
            with pytest.raises(pymicro.InvalidArgument) as caught:
                await stub(client).SayHello(hello(), metadata=metadata)
            assert "secret" not in str(caught.value)


@SHAPES
@pytest.mark.parametrize("kind", [tuple, grpc.aio.Metadata])
async def test_keys_are_lower_cased_and_values_go_as_they_are(made: Made, kind: Any) -> None:
    pairs = [("X-Up", "a b"), ("text", b"bytes"), ("Any-Bin", b"\x00\xff")]
    async with greeter() as (client, _, [server]):
        await made(stub(client), metadata=kind(*pairs) if kind is not tuple else tuple(pairs))
        seen = server.metadata[0]
        assert (seen["x-up"], seen["text"], seen["any-bin"]) == ("a b", "bytes", b"\x00\xff")


@SHAPES
async def test_headers_of_the_network_itself_disturb_neither_their_call_nor_the_next(made: Made) -> None:
    own = [("te", "x"), ("content-type", "x"), ("content-length", "7"), ("user-agent", "x")]
    own += [("grpc-timeout", "1n"), ("grpc-encoding", "gzip"), ("grpc-accept-encoding", "x")]
    async with greeter() as (client, _, (server,)):
        greet = stub(client)
        for pair in own:
            await made(greet, metadata=(pair, ("mine", "1")), timeout=10)
            await made(greet, timeout=10)  # on the same connection
        assert server.calls == 2 * len(own)
        for seen in server.metadata[::2]:
            assert seen["mine"] == "1"
            if backends.network is None:
                assert not [value for value in seen.values() if value in ("x", "7", "1n")]


@SHAPES
async def test_spaces_at_the_ends_of_a_value_go_along(made: Made) -> None:
    async with greeter() as (client, _, (server,)):
        await made(stub(client), metadata=(("padded", " a b "), ("space", " ")))
        assert server.metadata[0]["padded"] == " a b "
        assert server.metadata[0]["space"] == " "


@SHAPES
async def test_what_an_interceptor_of_ours_adds_is_checked_as_well(made: Made) -> None:
    async def adds(call: Any, proceed: Any) -> Any:
        call.metadata.add("X-Good", "a")
        if bad:
            call.metadata.add("k", "Zoë")
        return await proceed()

    async with greeter(interceptors=[adds]) as (client, _, [server]):
        bad = True
        with pytest.raises(pymicro.InvalidArgument, match="metadata k may only have printable ASCII"):
            await made(stub(client), timeout=5)
        assert server.calls == 0
        bad = False
        await made(stub(client), timeout=5)
        assert server.metadata[0]["x-good"] == "a"


async def test_what_an_interceptor_of_grpc_aio_adds_is_checked_as_well() -> None:
    class Adds(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return await continuation(details._replace(metadata=(("K", 5),)), request)

    async with greeter(interceptors=[Adds()]) as (client, _, [server]):
        with pytest.raises(pymicro.InvalidArgument, match="metadata k must be text, not int"):
            await stub(client).SayHello(hello(), timeout=5)
        assert server.calls == 0


class _Serving:
    """A call being served, which came with this metadata."""

    active = True
    retried = False

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        self._pairs = pairs

    def time_remaining(self) -> float | None:
        return 5.0

    def forwarded(self, names: frozenset[str]) -> list[tuple[str, Any]]:
        return [pair for pair in self._pairs if pair[0] in names]


@contextmanager
def _serving(*pairs: tuple[str, Any]) -> Iterator[None]:
    token = scopes.scope.set(_Serving(pairs))
    try:
        yield
    finally:
        scopes.scope.reset(token)


@SHAPES
@pytest.mark.parametrize("value", ["user=Zoë", b"user=Zo\xc3\xab", b"user=Zo\xeb", "a\tb", "x" * 9000])
async def test_what_cannot_be_forwarded_is_left_out_and_told_once(
    made: Made, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ["baggage", "traceparent"]
    async with greeter(2, forward_metadata=keys) as (client, _, servers):
        target = await connected(client, 2)
        with _serving(("baggage", value), ("traceparent", "00-1")), caplog.at_level(logging.WARNING):
            for _ in range(20):
                await made(stub(client))
        seen = [metadata for server in servers for metadata in server.metadata]
        assert len(seen) == 20
        assert all("baggage" not in one and one["traceparent"] == "00-1" for one in seen)
        # grpc.aio itself may log of a loop that an earlier test closed.
        (record,) = [record for record in caplog.records if record.name.startswith("pymicro")]
        assert (record.name, record.levelname) == ("pymicro.client", "WARNING")
        assert "metadata baggage " in record.message
        assert not target.chooser.ejected


async def test_what_can_be_forwarded_goes_along_unless_the_call_says_it_itself() -> None:
    forwarded = [("baggage", "x" * 7000), ("token-bin", b"\x00\xff"), ("tenant", "theirs"), ("other", "no")]
    async with greeter(forward_metadata=["baggage", "Token-Bin", "tenant"]) as (client, _, [server]):
        with _serving(*forwarded):
            await stub(client).SayHello(hello(), metadata=(("Tenant", "mine"),))
        seen = server.metadata[0]
        assert (seen["baggage"], seen["token-bin"], seen["tenant"]) == ("x" * 7000, b"\x00\xff", "mine")
        assert "other" not in seen


async def test_bad_metadata_of_a_caller_counts_against_no_node() -> None:
    async def requests() -> AsyncIterator[Any]:
        yield hello()

    async with greeter(3) as (client, _, servers):
        target = await connected(client, 3)
        for _ in range(60):
            with pytest.raises(pymicro.InvalidArgument):
                await stub(client).GreetAll(requests(), metadata=(("k", "two\nlines"),))
        assert not target.chooser.ejected
        for _ in range(30):
            await stub(client).SayHello(hello())
        assert all(server.calls for server in servers)
