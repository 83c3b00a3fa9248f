"""A client's half: tokens from files, sent over TLS and over nothing else."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import grpc
import pytest

import pymicro
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import (
    CallContext,
    Client,
    ConfigError,
    MemoryRegistry,
    Service,
    Unauthenticated,
    api_key,
    api_keys,
    bearer_jwt,
    bearer_token,
    handler,
)
from pymicro.identity.token_file import BadToken, TokenFile
from tests.serving.serving import everything_in
from tests.tls.ends import Authority
from tests.tokens.issuer import AUDIENCE, CART, ISSUER, Issuer

ADA = pb.HelloRequest(name="Ada")
NAME = f"token:{CART}"


class Greeter:
    """Answers with what it is told of its caller, and of what came along."""

    def __init__(self) -> None:
        self.seen: list[tuple[str | None, list[Any]]] = []

    def note(self, context: CallContext) -> None:
        came = [pair for pair in context.invocation_metadata() if pair[0] in ("authorization", "x-api-key")]
        self.seen.append((context.caller.principal if context.caller is not None else None, came))

    @handler
    async def say_hello(self, request: pb.HelloRequest, context: CallContext) -> pb.HelloReply:
        self.note(context)
        return pb.HelloReply(message=f"Hello {request.name}")

    @handler
    async def count_down(self, request: pb.CountDownRequest, context: CallContext) -> Any:
        self.note(context)
        yield pb.CountDownReply()


def service(registry: MemoryRegistry, *accepted: Any, **settings: Any) -> tuple[Service, Greeter]:
    made, own = Service("greeter", registry=registry, interceptors=accepted, **settings), Greeter()
    made.add(own, pb, partial=True)
    return made, own


def secured(authority: Authority) -> dict[str, str]:
    return {**authority.folder("greeter").settings, "tls_client_certificates": "none"}


def calling(registry: MemoryRegistry, authority: Authority, *interceptors: Any) -> Client:
    return Client(
        registry=registry, tls_ca=authority.ca_file(), client_tls="require", interceptors=interceptors
    )


def read(path: Path) -> str:
    return path.read_text().strip()


def write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.fixture
def token_path(tmp_path: Path, issuer: Issuer) -> Path:
    path = tmp_path / "token"
    path.write_text(issuer.token() + "\n")
    return path


async def test_a_token_goes_along_over_tls_in_all_shapes(
    authority: Authority, issuer: Issuer, token_path: Path
) -> None:
    registry = MemoryRegistry()
    made, own = service(registry, bearer_jwt(ISSUER, AUDIENCE, str(issuer.path)), **secured(authority))
    client = calling(registry, authority, bearer_token(token_path))
    async with made, client:
        stub = rpc.GreeterStub(client.channel("greeter"))
        await stub.SayHello(ADA, timeout=10)
        assert len([one async for one in stub.CountDown(pb.CountDownRequest(), timeout=10)]) == 1
        # One that somebody has sent along is not sent on: the client calls in its own name.
        await stub.SayHello(ADA, timeout=10, metadata=(("authorization", "Bearer other"),))
    token = read(token_path)
    assert own.seen == [(NAME, [("authorization", f"Bearer {token}")])] * 3


async def test_nothing_is_sent_in_plain_text(
    authority: Authority, issuer: Issuer, token_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With `client_tls` auto, a node's record says whether it speaks TLS, and others can write records."""
    caplog.set_level(logging.DEBUG)
    registry = MemoryRegistry()
    made, own = service(registry)
    token = read(token_path)
    for ca in ({}, {"tls_ca": authority.ca_file()}):
        client = Client(registry=registry, interceptors=[bearer_token(token_path)], **ca)
        async with made, client:
            for channel in (client.channel("greeter"), client.channel("greeter", address=made.address)):
                stub = rpc.GreeterStub(channel)
                with pytest.raises(Unauthenticated, match="the connection is plain text") as caught:
                    await stub.SayHello(ADA, timeout=10)
                text = caught.value.details()
                assert text.startswith(f"the token in {token_path} is not sent to greeter at {made.address}")
                assert "Set client_tls=require" in text
                assert caught.value.from_peer is False
                assert token not in everything_in(caught.value)
                with pytest.raises(Unauthenticated, match="plain text"):
                    await anext(aiter(stub.CountDown(pb.CountDownRequest(), timeout=10)))
    assert own.seen == []
    assert token not in caplog.text


async def test_it_may_be_allowed(issuer: Issuer, token_path: Path) -> None:
    registry = MemoryRegistry()
    made, own = service(registry, bearer_jwt(ISSUER, AUDIENCE, str(issuer.path), plain_text=True))
    client = Client(registry=registry, interceptors=[bearer_token(token_path, plain_text=True)])
    async with made, client:
        await rpc.GreeterStub(client.channel("greeter")).SayHello(ADA, timeout=10)
    assert [name for name, _ in own.seen] == [NAME]


async def test_the_file_is_read_again_and_the_last_good_token_goes_on(
    authority: Authority, issuer: Issuer, token_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = MemoryRegistry()
    made, own = service(registry, bearer_jwt(ISSUER, AUDIENCE, str(issuer.path)), **secured(authority))
    client = calling(registry, authority, bearer_token(token_path))
    async with made, client:
        stub = rpc.GreeterStub(client.channel("greeter"))
        await stub.SayHello(ADA, timeout=10)
        fresh = token_path.with_suffix(".new")
        fresh.write_text(issuer.token(sub="two"))
        os.replace(fresh, token_path)
        await stub.SayHello(ADA, timeout=10)
        write(token_path, "")
        for _ in range(3):
            await stub.SayHello(ADA, timeout=10)
    assert [name for name, _ in own.seen] == [NAME, *["token:two"] * 4]
    lines = [one.getMessage() for one in caplog.records if "token before goes on" in one.getMessage()]
    assert lines == [f"the token before goes on: {token_path} is empty"]


async def test_an_api_key(authority: Authority, tmp_path: Path) -> None:
    registry = MemoryRegistry()
    own_key, digests = tmp_path / "key", tmp_path / "keys.toml"
    own_key.write_text("open-sesame\n")
    digests.write_text("cart = 'd7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7'")
    made, own = service(registry, api_keys(digests), **secured(authority))
    client = calling(registry, authority, api_key(own_key))
    async with made, client:
        await rpc.GreeterStub(client.channel("greeter")).SayHello(ADA, timeout=10)
    assert own.seen == [("key:cart", [("x-api-key", "open-sesame")])]


async def test_a_client_without_async_sends_it_too(
    authority: Authority, issuer: Issuer, token_path: Path, transport: str
) -> None:
    from pymicro.sync import Client as SyncClient

    if transport == "grpc":
        pytest.skip("two loops of gRPC in one process: the service has the other one")
    made, own = service(
        MemoryRegistry(), bearer_jwt(ISSUER, AUDIENCE, str(issuer.path)), **secured(authority)
    )
    settings: Any = {"tls_ca": authority.ca_file(), "client_tls": "require"}
    async with made:

        def call() -> None:
            with SyncClient(interceptors=[bearer_token(token_path)], **settings) as client:
                stub: Any = rpc.GreeterStub(client.channel("greeter", address=made.address))
                stub.SayHello(ADA, timeout=10)

        await asyncio.to_thread(call)
    assert [name for name, _ in own.seen] == [NAME]


@pytest.mark.parametrize(
    ("contents", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"two words", "holds no token"),
        (b"\xff\xfe\x00", "holds no token"),
        (b"x" * 7001, "has 7001 bytes: a token of more than 7000 fits into no call"),
        (b"x" * (1 << 21), "is larger than 1 MiB"),
    ],
    ids=["missing", "empty", "blank", "words", "binary", "long", "huge"],
)
async def test_a_file_of_no_use_is_one_message(tmp_path: Path, contents: bytes | None, why: str) -> None:
    path = tmp_path / "token"
    if contents is not None:
        path.write_bytes(contents)
    registry = MemoryRegistry()
    made, own = service(registry)
    async with made, Client(registry=registry, interceptors=[bearer_token(path, plain_text=True)]) as client:
        with pytest.raises(Unauthenticated) as caught:
            await rpc.GreeterStub(client.channel("greeter")).SayHello(ADA, timeout=10)
    text = caught.value.details()
    assert text.startswith(f"there is no token in {path} to send: {path} ")
    assert why in text
    assert own.seen == []


async def test_a_file_is_read_at_most_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymicro.identity.token_file.FRESH", 1.0)
    path, clock = tmp_path / "token", [100.0]
    path.write_text("one")
    file = TokenFile(str(path), "token", lambda: clock[0])
    assert await asyncio.gather(*(file.get() for _ in range(5))) == ["one"] * 5
    path.write_text("two")
    assert await file.get() == "one"
    clock[0] += 1.0
    assert await file.get() == "two"
    path.unlink()
    clock[0] += 1.0
    assert await file.get() == "two"
    with pytest.raises(BadToken, match="No such file"):
        await TokenFile(str(path), "token").get()


def test_the_token_itself_is_nowhere_to_be_read(token_path: Path) -> None:
    token = read(token_path)
    for one in (bearer_token(token_path), api_key(token_path)):
        assert token not in repr(one)
    assert repr(bearer_token(token_path)) == f"<token in {token_path}>"
    with pytest.raises(ConfigError, match="path of a file with a token, and a token was given") as caught:
        bearer_token(token)
    assert token not in str(caught.value)
    for wrong in ("", None, 7):
        with pytest.raises(ConfigError, match="file= is no path of a file: it is "):
            bearer_token(wrong)  # type: ignore[arg-type]


async def test_two_kinds_and_grpcs_own_go_together(
    authority: Authority, tmp_path: Path, token_path: Path
) -> None:
    """What is sent is one of grpc's call credentials too, and stands beside others of them."""
    registry = MemoryRegistry()
    made, own = service(registry, **secured(authority))
    key = tmp_path / "key"
    key.write_text("open-sesame")
    client = calling(registry, authority, bearer_token(token_path), api_key(key))
    async with made, client:
        stub = rpc.GreeterStub(client.channel("greeter"))
        await stub.SayHello(ADA, timeout=10, credentials=grpc.access_token_call_credentials("theirs"))
    ((_, came),) = own.seen
    token = read(token_path)
    assert sorted(came) == [
        ("authorization", f"Bearer {token}"),
        ("authorization", "Bearer theirs"),
        ("x-api-key", "open-sesame"),
    ]


async def test_an_interceptor_of_grpcs_may_put_it_together_with_others(
    authority: Authority, token_path: Path
) -> None:
    class Adding(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            both = grpc.composite_call_credentials(
                details.credentials, grpc.access_token_call_credentials("theirs")
            )
            return await continuation(details._replace(credentials=both), request)

    registry = MemoryRegistry()
    made, own = service(registry, **secured(authority))
    client = calling(registry, authority, bearer_token(token_path), Adding())
    async with made, client:
        await rpc.GreeterStub(client.channel("greeter")).SayHello(ADA, timeout=10)
    ((_, came),) = own.seen
    assert sorted(came) == [
        ("authorization", f"Bearer {read(token_path)}"),
        ("authorization", "Bearer theirs"),
    ]


def test_names_load_when_they_are_used() -> None:
    for name in ("bearer_jwt", "kubernetes_jwt", "api_keys", "bearer_token", "api_key"):
        assert callable(getattr(pymicro, name))
