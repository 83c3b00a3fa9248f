"""grpc's call credentials, alike over both transports."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import grpc
import pytest

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import Client, DeadlineExceeded, MemoryRegistry, Unauthenticated, Unavailable
from tests.tls.ends import Authority
from tests.tokens.test_sending import secured, service

ADA = pb.HelloRequest(name="Ada")


class Plugin(grpc.AuthMetadataPlugin):
    """Answers with these pairs, from another thread if it is told to."""

    def __init__(self, *pairs: Any, error: Exception | None = None, later: bool = False) -> None:
        self.contexts: list[grpc.AuthMetadataContext] = []
        self._pairs = pairs
        self._error = error
        self._later = later

    def __call__(self, context: grpc.AuthMetadataContext, callback: Any) -> None:
        self.contexts.append(context)
        if self._later:
            threading.Thread(target=callback, args=(self._pairs, self._error)).start()
        else:
            callback(self._pairs, self._error)


class Bug(grpc.AuthMetadataPlugin):
    def __call__(self, context: grpc.AuthMetadataContext, callback: Any) -> None:
        raise ValueError("a bug")


class Silent(grpc.AuthMetadataPlugin):
    def __call__(self, context: grpc.AuthMetadataContext, callback: Any) -> None:
        pass


def opened(registry: MemoryRegistry, authority: Authority, **settings: Any) -> Client:
    return Client(registry=registry, tls_ca=authority.ca_file(), client_tls="require", **settings)


async def test_they_go_along_over_tls(authority: Authority) -> None:
    registry = MemoryRegistry()
    made, own = service(registry, **secured(authority))
    one, two = Plugin(("x-api-key", "one")), Plugin(("x-api-key", "two"), later=True)
    both = grpc.composite_call_credentials(
        grpc.metadata_call_credentials(one),
        grpc.metadata_call_credentials(two),
        grpc.access_token_call_credentials("three"),
    )
    async with made, opened(registry, authority) as client:
        stub = rpc.GreeterStub(client.channel("greeter"))
        for _ in range(2):
            await stub.SayHello(ADA, timeout=10, credentials=both, metadata=(("x-api-key", "zero"),))
        call = stub.CountDown(pb.CountDownRequest(), timeout=10, credentials=both)
        assert len([response async for response in call]) == 1
    came = [sorted(pairs) for _, pairs in own.seen]
    pairs = [("authorization", "Bearer three"), *(("x-api-key", name) for name in ("one", "two", "zero"))]
    assert came == [pairs, pairs, pairs[:-1]]
    (context, *_) = one.contexts
    assert (context.service_url, context.method_name) == ("https://greeter/greeter.v1.Greeter", "SayHello")


async def test_they_are_refused_in_plain_text() -> None:
    registry = MemoryRegistry()
    made, own = service(registry)
    plugin = Plugin(("x-api-key", "one"))
    async with made, Client(registry=registry) as client:
        stub = rpc.GreeterStub(client.channel("greeter"))
        with pytest.raises(Unauthenticated, match="call credentials are not sent to greeter at") as caught:
            await stub.SayHello(ADA, timeout=10, credentials=grpc.metadata_call_credentials(plugin))
        assert caught.value.from_peer is False
    assert own.seen == []
    assert plugin.contexts == []


@pytest.mark.parametrize(
    ("plugin", "text"),
    [
        (Plugin(error=ValueError("no token today")), "no token today"),
        (Bug(), "a bug"),
        (Plugin(("Not A Key", "x")), "Illegal metadata"),
        (Plugin(("x-api-key", "line\nbreak")), "Illegal metadata"),
    ],
    ids=["error", "bug", "key", "value"],
)
async def test_a_plugin_that_fails_ends_the_call(authority: Authority, plugin: Any, text: str) -> None:
    registry = MemoryRegistry()
    made, own = service(registry, **secured(authority))
    async with made, opened(registry, authority, client_retries=0) as client:
        stub = rpc.GreeterStub(client.channel("greeter"))
        with pytest.raises(Unavailable, match=text):
            await stub.SayHello(ADA, timeout=10, credentials=grpc.metadata_call_credentials(plugin))
        await stub.SayHello(ADA, timeout=10)
    assert len(own.seen) == 1


async def test_a_plugin_that_never_answers_costs_no_more_than_the_deadline(authority: Authority) -> None:
    registry = MemoryRegistry()
    made, own = service(registry, **secured(authority))
    silent = grpc.metadata_call_credentials(Silent())
    async with made, opened(registry, authority) as client:
        stub = rpc.GreeterStub(client.channel("greeter"))
        await stub.SayHello(ADA, timeout=10)
        with pytest.raises(DeadlineExceeded):
            await stub.SayHello(ADA, timeout=0.2, credentials=silent)
        call = stub.SayHello(ADA, credentials=silent)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert len(own.seen) == 1
