"""Calls with tokens and API keys: who is served, what handlers are told, and who is refused."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from greeter.v1 import greeter_pb2 as pb
from pymicro import (
    CallContext,
    ConfigError,
    MemoryRegistry,
    Service,
    api_keys,
    bearer_jwt,
    bearer_token,
    handler,
)
from pymicro.identity.caller import KnownCaller
from tests.serving.serving import eventually
from tests.tls.ends import Authority, foreign_channel, stub
from tests.tls.foreign import Passing, Thing
from tests.tls.test_callers import code_of
from tests.tokens.issuer import AUDIENCE, CART, ISSUER, Issuer

ADA = pb.HelloRequest(name="Ada")
OK, UNAUTHENTICATED = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED
DENIED = grpc.StatusCode.PERMISSION_DENIED
NAME = f"token:{CART}"


class Greeter:
    def __init__(self) -> None:
        self.callers: list[KnownCaller | None] = []

    @handler
    async def say_hello(self, request: pb.HelloRequest, context: CallContext) -> pb.HelloReply:
        self.callers.append(context.caller)
        return pb.HelloReply(message=f"Hello {request.name}")

    @handler(allow=["token:system:serviceaccount:ops:*"])
    async def count_down(self, request: pb.CountDownRequest, context: CallContext) -> Any:
        self.callers.append(context.caller)
        yield pb.CountDownReply()


@contextlib.asynccontextmanager
async def serving(
    authority: Authority, issuer: Issuer, *more: Any, plain_text: bool = False, **settings: Any
) -> AsyncIterator[tuple[Service, Greeter]]:
    """A greeter that takes the issuer's tokens, over TLS unless they may come in plain text."""
    own = Greeter()
    files = {} if plain_text else {**authority.folder("greeter").settings, "tls_client_certificates": "none"}
    service = Service(
        "greeter",
        registry=MemoryRegistry(),
        interceptors=[bearer_jwt(ISSUER, AUDIENCE, str(issuer.path), plain_text=plain_text), *more],
        **{**files, **settings},
    )
    service.add(own, pb, partial=True)
    async with service:
        yield service, own


def bearer(token: str) -> Any:
    return (("authorization", f"Bearer {token}"),)


async def said(channel: Any, metadata: Any = None) -> tuple[grpc.StatusCode, str]:
    return await code_of(stub(channel).SayHello(ADA, timeout=10, metadata=metadata))


async def test_a_token_is_the_caller(authority: Authority, issuer: Issuer) -> None:
    async with (
        serving(authority, issuer) as (service, own),
        foreign_channel(service.address, authority.ca) as channel,
    ):
        for _ in range(3):
            assert await said(channel, bearer(issuer.token(groups=["shop"], iat=1))) == (OK, "")
    for caller in own.callers:
        assert caller is not None
        assert (caller.principal, caller.title) == (NAME, NAME)
        assert caller.claims["groups"] == ("shop",)


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        (None, "is for callers that are known: a token (metadata `authorization: Bearer …`) is needed"),
        ((("authorization", "Basic YTpi"),), "is for callers that are known"),
        ((("authorization", "Bearer"),), "is for callers that are known"),
        (bearer(""), "greeter.v1.Greeter/SayHello"),
        (bearer("rubbish"), "is not taken: it is cut off, or no token (JWT)"),
        (bearer("x" * 8200), None),
        ((*bearer("a"), *bearer("b")), "there are two of them"),
    ],
    ids=["nothing", "another scheme", "no token", "empty", "rubbish", "huge", "two"],
)
async def test_who_shows_none_is_unauthenticated(
    authority: Authority, issuer: Issuer, metadata: Any, why: str | None
) -> None:
    async with (
        serving(authority, issuer) as (service, own),
        foreign_channel(service.address, authority.ca) as channel,
    ):
        code, text = await said(channel, metadata)
        if why is None:
            # grpc-core refuses so much metadata by itself, now and then; nobody gets in either way.
            assert code in (UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED)
        else:
            assert code is UNAUTHENTICATED
            assert why in text
        # Health is for everybody.
        asking = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert (await asking).status == health_pb2.HealthCheckResponse.SERVING
        assert await said(channel, bearer(issuer.token())) == (OK, "")
    assert len(own.callers) == 1


async def test_bad_tokens_are_refused_told_and_counted(
    authority: Authority, issuer: Issuer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    thief = Issuer(tmp_path / "thief.json")
    tokens = {
        "it has expired": issuer.token(exp=1000),
        "it is not valid yet": issuer.token(nbf=9e9),
        "its audience is another one": issuer.token(aud="other"),
        "its issuer is none": issuer.token(iss="other"),
        "its signature is not": thief.token(),
        "it is cut off": issuer.token().rpartition(".")[0],
    }
    async with (
        serving(authority, issuer) as (service, own),
        foreign_channel(service.address, authority.ca) as channel,
    ):
        for why, token in tokens.items():
            for _ in range(2):
                code, text = await said(channel, bearer(token))
                assert code is UNAUTHENTICATED
                assert why in text
                assert token[-20:] not in text
        recorder = service.client.recorder
        assert recorder is not None
        assert recorder.server.refused["unauthenticated"] == 2 * len(tokens)
        for _ in range(50):
            await said(channel, bearer(tokens["it has expired"]))
    assert own.callers == []
    lines = [one.getMessage() for one in caplog.records if "may not call" in one.getMessage()]
    assert len(tokens) <= len(lines) < 20
    assert "a caller whose token or API key is not taken (it has expired) may not call" in lines[0]
    for line in caplog.text.splitlines():
        assert not any(token[-20:] in line for token in tokens.values())


async def test_rules_name_the_subjects_of_tokens(authority: Authority, issuer: Issuer) -> None:
    async with (
        serving(authority, issuer, allow=["token:system:serviceaccount:shop:*", "spiffe://**"]) as (
            service,
            own,
        ),
        foreign_channel(service.address, authority.ca) as channel,
    ):
        assert await said(channel, bearer(issuer.token())) == (OK, "")
        for subject in ("system:serviceaccount:other:cart", "spiffe://cluster.local/x", "token:x", "greeter"):
            code, text = await said(channel, bearer(issuer.token(sub=subject)))
            assert (code, text) == (DENIED, f"token:{subject} may not call greeter.v1.Greeter/SayHello")
        for subject, expected in ((CART, DENIED), ("system:serviceaccount:ops:root", OK)):
            metadata = bearer(issuer.token(sub=subject))
            call = stub(channel).CountDown(pb.CountDownRequest(), timeout=10, metadata=metadata)
            assert (await code_of(anext(aiter(call))))[0] is expected
            call.cancel()
    assert [one and one.principal for one in own.callers] == [NAME, "token:system:serviceaccount:ops:root"]


async def test_a_token_in_plain_text_is_refused_unless_it_may_come_so(
    authority: Authority, issuer: Issuer
) -> None:
    async with serving(authority, issuer, tls_plain_address="127.0.0.1:0") as (service, own):
        async with grpc.aio.insecure_channel(service.node.address) as channel:
            for token in (issuer.token(), "rubbish"):  # it is not said whether it is good
                code, text = await said(channel, bearer(token))
                assert code is UNAUTHENTICATED
                assert "it came in plain text, where others can read it" in text
        async with foreign_channel(service.address, authority.ca) as channel:
            assert await said(channel, bearer(issuer.token())) == (OK, "")
    assert len(own.callers) == 1
    async with (
        serving(authority, issuer, plain_text=True) as (service, own),
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        assert await said(channel, bearer(issuer.token())) == (OK, "")
        assert (await said(channel))[0] is UNAUTHENTICATED
    assert len(own.callers) == 1


async def test_a_service_that_could_only_take_them_in_plain_text_does_not_start(
    authority: Authority, issuer: Issuer
) -> None:
    with pytest.raises(ConfigError, match=r"taken over TLS only, .* give it one"):
        async with serving(authority, issuer, tls_dir=""):
            pass
    async with (
        serving(authority, issuer, tls_dir="", authorization="off", allow=["nobody"]) as (service, own),
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        assert await said(channel) == (OK, "")
        assert await said(channel, bearer("rubbish")) == (OK, "")
    assert own.callers == [None, None]


async def test_certificate_and_token_together_prove_both(authority: Authority, issuer: Issuer) -> None:
    allow = ["cart.shop"]
    async with serving(authority, issuer, tls_client_certificates="require", allow=allow) as (service, own):
        async with foreign_channel(service.address, authority.ca, own="cart.shop") as channel:
            assert await said(channel) == (OK, "")
            assert await said(channel, bearer(issuer.token())) == (OK, "")
            # What is shown and not good is never overlooked.
            assert (await said(channel, bearer("rubbish")))[0] is UNAUTHENTICATED
        async with foreign_channel(service.address, authority.ca, own="other") as channel:
            assert await said(channel, bearer(issuer.token())) == (
                DENIED,
                f"{NAME} may not call greeter.v1.Greeter/SayHello",
            )
    first, second = own.callers
    assert first is not None
    assert second is not None
    assert (first.names, first.principal) == (("cart.shop",), "")
    assert (second.names, second.principal) == (("cart.shop",), NAME)


async def test_api_keys(
    authority: Authority, issuer: Issuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.toml"

    def write(**keys: str | list[str]) -> None:
        def digest(key: str) -> str:
            return hashlib.sha256(key.encode()).hexdigest()

        rows = [
            f"{name} = {[digest(one) for one in key] if isinstance(key, list) else [digest(key)]}"
            for name, key in keys.items()
        ]
        path.write_text("\n".join(rows))

    write(cart="open-sesame", admin=["new", "old"])
    async with (
        serving(authority, issuer, api_keys(path), allow=["key:cart", "key:adm*"]) as (service, own),
        foreign_channel(service.address, authority.ca) as channel,
    ):
        for key in ("open-sesame", "new", "old"):
            assert await said(channel, (("x-api-key", key),)) == (OK, "")
        for key in ("", "open-sesam", "x" * 2000):
            code, text = await said(channel, (("x-api-key", key),))
            assert code is UNAUTHENTICATED
            assert "it is not known here" in text or "longer than" in text
        both = (("x-api-key", "new"), *bearer(issuer.token()))
        assert "there is an API key beside it" in (await said(channel, both))[1]
        code, text = await said(channel)
        assert "a token (metadata `authorization: Bearer …`) or an API key (metadata `x-api-key`)" in text
        # A token's subject is no key, whatever it says.
        assert (await said(channel, bearer(issuer.token(sub="key:cart"))))[0] is DENIED
        path.write_text("cart = 'open-sesame'")
        await eventually(lambda: "no SHA-256 digest of a key" in caplog.text, "it is refused")
        assert await said(channel, (("x-api-key", "new"),)) == (OK, "")
        write(other="new")
        while (await said(channel, (("x-api-key", "new"),)))[0] is not DENIED:
            pass
        assert (await said(channel, (("x-api-key", "open-sesame"),)))[0] is UNAUTHENTICATED
    assert [one and one.principal for one in own.callers[:3]] == ["key:cart", "key:admin", "key:admin"]
    assert "open-sesame" not in caplog.text


async def test_reflection_generic_handlers_and_foreign_interceptors_are_behind_tokens_too(
    authority: Authority, issuer: Issuer
) -> None:
    thing = Thing()
    for interceptors in ((), (Passing(),)):
        own = Greeter()
        service = Service(
            "greeter",
            registry=MemoryRegistry(),
            interceptors=[*interceptors, bearer_jwt(ISSUER, AUDIENCE, str(issuer.path))],
            tls_client_certificates="none",
            **authority.folder("greeter").settings,
        )
        service.add(own, pb, partial=True)
        service.add_generic_rpc_handlers((thing,))
        async with service, foreign_channel(service.address, authority.ca) as channel:
            for metadata, expected in ((None, UNAUTHENTICATED), (bearer(issuer.token()), OK)):
                do = channel.unary_unary("/other.Thing/Do")
                assert (await code_of(do(b"x", timeout=10, metadata=metadata)))[0] is expected
                hi = channel.unary_unary("/whatever.Greeter/SayHello", pb.HelloRequest.SerializeToString)
                assert (await code_of(hi(ADA, timeout=10, metadata=metadata)))[0] is expected
                asking = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                    timeout=10, metadata=metadata
                )
                if expected is OK:
                    await asking.write(reflection_pb2.ServerReflectionRequest(list_services=""))
                assert (await code_of(asking.read()))[0] is expected
                asking.cancel()
            assert [one and one.principal for one in own.callers] == [NAME]
    assert thing.served == ["x", "x"]


async def test_go_micros_callers_are_refused_in_their_words(authority: Authority, issuer: Issuer) -> None:
    async with (
        serving(authority, issuer) as (service, own),
        foreign_channel(service.address, authority.ca) as channel,
    ):
        marks = (("x-content-type", "application/grpc+json"), ("micro-from-service", "shop"))
        hi = channel.unary_unary("/greeter.Greeter/SayHello")
        code, text = await code_of(hi(b'{"name": "Ada"}', timeout=10, metadata=marks))
        assert code is UNAUTHENTICATED
        assert '"code":401' in text.replace(" ", "")
        answer = await hi(b'{"name": "Ada"}', timeout=10, metadata=(*marks, *bearer(issuer.token())))
        assert answer == b'{"message":"Hello Ada"}'
    assert [one and one.principal for one in own.callers] == [NAME]


async def test_the_access_log_names_the_caller(
    authority: Authority, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pymicro.access")
    token = issuer.token()
    async with (
        serving(authority, issuer, access_log="all", allow=[NAME]) as (service, _),
        foreign_channel(service.address, authority.ca) as channel,
    ):
        await said(channel, bearer(token))
        await said(channel, bearer(issuer.token(sub="thief")))
        await said(channel)

        def lines() -> list[Any]:
            return [one for one in caplog.records if one.name == "pymicro.access"]

        await eventually(lambda: len(lines()) == 3, "all are listed")
    assert [getattr(one, "caller", None) for one in lines()] == [NAME, "token:thief", None]
    assert token not in caplog.text


async def test_calls_at_once_with_a_new_token_cost_one_check(authority: Authority, issuer: Issuer) -> None:
    async with (
        serving(authority, issuer) as (service, own),
        foreign_channel(service.address, authority.ca) as channel,
    ):
        await channel.channel_ready()
        token = bearer(issuer.token())
        ends = await asyncio.gather(*(said(channel, token) for _ in range(50)))
        assert {code for code, _ in ends} == {OK}
        assert len(own.callers) == 50
        assert len({id(caller) for caller in own.callers}) == 1


def test_a_client_s_half_is_no_server_s_and_the_other_way_round(issuer: Issuer) -> None:
    from pymicro import Client
    from pymicro.serving.interceptors import split

    with pytest.raises(ConfigError, match=r"<token in /x> sends a token, and goes to the calling end"):
        split([bearer_token("/x")])
    client = Client(interceptors=[bearer_jwt(ISSUER, AUDIENCE, str(issuer.path))], environ={})
    with pytest.raises(ConfigError, match="is no client interceptor"):
        client.channel("greeter")
