"""Who calls: what handlers, logs and spans are told, and who is refused."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import CallContext, Client, ConfigError, MemoryRegistry, PermissionDenied, Service, handler
from pymicro.identity.caller import KnownCaller
from tests.certificates import Made, pem_of, spiffe
from tests.greeting import greeter
from tests.serving.serving import eventually
from tests.tls.ends import Authority, foreign_channel, stub
from tests.tls.foreign import Passing, Thing

ADA = pb.HelloRequest(name="Ada")
CART = "spiffe://cluster.local/ns/shop/sa/cart"


class Greeter:
    def __init__(self) -> None:
        self.callers: list[KnownCaller | None] = []

    @handler
    async def say_hello(self, request: pb.HelloRequest, context: CallContext) -> pb.HelloReply:
        self.callers.append(context.caller)
        assert context.caller is context.caller
        return pb.HelloReply(message=f"Hello {request.name}")

    @handler(allow=["admin"])
    async def count_down(self, request: pb.CountDownRequest) -> Any:
        yield pb.CountDownReply()


@contextlib.asynccontextmanager
async def guarded(
    authority: Authority, *, allow: list[str] | None = None, **settings: Any
) -> AsyncIterator[tuple[Service, Greeter]]:
    own = Greeter()
    service = Service(
        "greeter", registry=MemoryRegistry(), **authority.folder("greeter").settings, **settings
    )
    service.add(own, pb, partial=True, allow=allow)
    async with service:
        yield service, own


def workload(service: Service, authority: Authority, *uris: str, names: tuple[str, ...] = ()) -> Any:
    """A channel of a caller with these names."""
    cert, key = spiffe(authority.ca, *uris, names=names)
    credentials = grpc.ssl_channel_credentials(pem_of(authority.ca), key, cert)
    return grpc.aio.secure_channel(
        service.address, credentials, options=[("grpc.ssl_target_name_override", "greeter")]
    )


async def code_of(call: Any) -> tuple[grpc.StatusCode, str]:
    try:
        await call
    except grpc.aio.AioRpcError as exc:
        return exc.code(), exc.details() or ""
    return grpc.StatusCode.OK, ""


async def test_a_handler_knows_its_caller(authority: Authority) -> None:
    async with (
        guarded(authority) as (service, own),
        workload(service, authority, CART, names=("Cart",)) as channel,
    ):
        await stub(channel).SayHello(ADA, timeout=10)
    assert own.callers == [KnownCaller(CART, ("cart",), (CART,))]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("82", b"admin\0.evil.example"),
        ("86", CART.encode() + b"\0.evil"),
        ("82", b"\xff.example"),
        ("86", b"spiffe://\xff"),
        ("82", CART.encode()),
    ],
    ids=["null", "null in a URI", "no text", "no text in a URI", "a URI as a name"],
)
async def test_a_name_that_libraries_cut_or_cannot_read_is_nobodys(
    authority: Authority, kind: str, name: bytes, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    """grpc-core tells of a name up to its null character, and Python's loop took one that is no text for a
    bug of its own."""
    raw = bytes([0x30, len(name) + 2]) + bytes.fromhex(kind) + bytes([len(name)]) + name
    odd = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, raw)
    top = Made(name="Top", authority=True)
    leaf, folder = Made(top, "thief", names=False, extensions=(odd,)), authority.folder("greeter")
    folder.issue(authority.ca, "greeter", believe=pem_of(authority.ca) + top.pem)
    service, own = greeter(**folder.settings, allow=["admin", CART, "spiffe://*"])
    credentials = grpc.ssl_channel_credentials(pem_of(authority.ca), leaf.key_pem, leaf.pem)
    options = [("grpc.ssl_target_name_override", "greeter")]
    async with service, grpc.aio.secure_channel(service.address, credentials, options=options) as channel:
        code, _ = await code_of(stub(channel).SayHello(ADA, timeout=10))
    assert own.served == 0
    refused = transport == "fast" and b"\xff" in name
    assert code is (grpc.StatusCode.UNAVAILABLE if refused else grpc.StatusCode.PERMISSION_DENIED)
    told = [one for one in caplog.messages if one.endswith("is of no use here: names that are no text")]
    assert bool(told) is refused
    assert not [one for one in caplog.records if one.exc_info]


async def test_and_that_there_is_none(authority: Authority) -> None:
    settings = {"tls_plain_address": "127.0.0.1:0", "tls_client_certificates": "none"}
    async with guarded(authority, authorization="off", **settings) as (service, own):
        async with grpc.aio.insecure_channel(service.node.address) as channel:
            await stub(channel).SayHello(ADA, timeout=10)
        async with foreign_channel(service.address, authority.ca, own="cart") as channel:
            await stub(channel).SayHello(ADA, timeout=10)
    assert own.callers == [None, None]


async def test_rules_of_service_and_method(authority: Authority) -> None:
    async with guarded(authority, allow=["spiffe://*/ns/shop/sa/*"]) as (service, own):
        async with workload(service, authority, CART) as channel:
            await stub(channel).SayHello(ADA, timeout=10)
            call = stub(channel).CountDown(pb.CountDownRequest(), timeout=10)
            assert await code_of(anext(aiter(call))) == (
                grpc.StatusCode.PERMISSION_DENIED,
                f"{CART} may not call greeter.v1.Greeter/CountDown",
            )
        async with workload(service, authority, names=("admin",)) as channel:
            call = stub(channel).CountDown(pb.CountDownRequest(), timeout=10)
            assert [one async for one in call]
            code, text = await code_of(stub(channel).SayHello(ADA, timeout=10))
            assert (code, text) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "admin may not call greeter.v1.Greeter/SayHello",
            )
    assert len(own.callers) == 1


@pytest.mark.parametrize("allow", [[], (), ""], ids=repr)
async def test_a_service_with_an_empty_list_is_for_nobody(authority: Authority, allow: Any) -> None:
    service, own = greeter(**authority.folder("greeter").settings, allow=allow)
    async with service, workload(service, authority, CART) as channel:
        code, _ = await code_of(stub(channel).SayHello(ADA, timeout=10))
        assert code is grpc.StatusCode.PERMISSION_DENIED
    assert own.served == 0


async def test_a_refused_caller_is_told_so_once_and_is_counted(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    registry = MemoryRegistry()
    service, own = greeter(registry, **authority.folder("greeter").settings, allow=[CART])
    async with service, Client(registry=registry, **authority.folder("thief").settings) as client:
        caller = rpc.GreeterStub(client.channel("greeter"))
        for _ in range(10):
            with pytest.raises(
                PermissionDenied, match=r"thief may not call greeter\.v1\.Greeter/SayHello"
            ) as caught:
                await caller.SayHello(ADA, timeout=10)
        assert caught.value.from_peer is True
        recorder = service.client.recorder
        assert recorder is not None
        assert recorder.server.refused["denied"] == 10  # once each: it is not tried again
    assert own.served == 0
    lines = [one.getMessage() for one in caplog.records if "may not call" in one.getMessage()]
    assert 1 <= len(lines) <= 3
    assert lines[0].startswith("thief may not call greeter.v1.Greeter/SayHello, and was refused")


async def test_whoever_has_no_certificate_is_unauthenticated(authority: Authority) -> None:
    async with guarded(authority, allow=["*"], tls_plain_address="127.0.0.1:0") as (service, own):
        async with grpc.aio.insecure_channel(service.node.address) as channel:
            code, text = await code_of(stub(channel).SayHello(ADA, timeout=10))
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert "is for callers with a certificate" in text
            # But probes may ask.
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        async with foreign_channel(service.address, authority.ca, own="anybody") as channel:
            await stub(channel).SayHello(ADA, timeout=10)
    assert len(own.callers) == 1


@pytest.mark.parametrize(
    ("setting", "outcomes"),
    [
        ("allowed", ("PERMISSION_DENIED", "OK")),
        ("open", ("OK", "OK")),
        ("off", ("UNIMPLEMENTED", "UNIMPLEMENTED")),
    ],
)
async def test_reflection_goes_by_its_setting(
    authority: Authority, setting: str, outcomes: tuple[str, str]
) -> None:
    async with guarded(authority, reflection=setting) as (plain, _):
        expected = "OK" if setting != "off" else "UNIMPLEMENTED"
        assert await reflected(plain, authority, "anybody", ask=expected == "OK") == expected
    service, _ = greeter(**authority.folder("greeter").settings, allow=["cart"], reflection=setting)
    async with service:
        for name, expected in zip(("thief", "cart"), outcomes, strict=True):
            assert await reflected(service, authority, name, ask=expected == "OK") == expected


async def reflected(service: Service, authority: Authority, name: str, *, ask: bool) -> str:
    """How a question ends. One that is refused is not asked: a write that comes too late becomes INTERNAL."""
    async with foreign_channel(service.address, authority.ca, own=name) as channel:
        asking = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(timeout=10)
        if ask:
            await asking.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        code, _ = await code_of(asking.read())
        asking.cancel()
        return code.name


async def test_a_file_with_rules_is_followed(authority: Authority, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text("allow = ['cart']")
    service, _ = greeter(**authority.folder("greeter").settings, authorization=str(rules))
    async with service, foreign_channel(service.address, authority.ca, own="cart") as channel:

        async def outcome() -> str:
            return (await code_of(stub(channel).SayHello(ADA, timeout=10)))[0].name

        assert await outcome() == "OK"
        rules.write_text("allow = ['cart']\n[methods]\n'greeter.v1.Greeter/SayHello' = []")
        while await outcome() == "OK":
            pass
        assert await outcome() == "PERMISSION_DENIED"
        rules.write_text("[services]\n'greeter.v1.Greeter' = ['c*']")
        while await outcome() != "OK":
            pass


async def test_rules_about_nothing_are_told(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(
        "[services]\n'greeter.v1.Greter' = ['x']\n'greeter.v1.Greeter' = ['x']\n"
        "[methods]\n'greeter.v1.Greeter/SayHelo' = ['x']\n"
        "'grpc.reflection.v1.ServerReflection/ServerReflectionInfo' = ['x']"
    )
    service, _ = greeter(**authority.folder("greeter").settings, authorization=str(rules))
    async with service:
        pass
    (line,) = [one.getMessage() for one in caplog.records if "have no effect" in one.getMessage()]
    assert "called greeter.v1.Greeter/SayHelo, greeter.v1.Greter, so" in line


@pytest.mark.parametrize(
    "settings", [{}, {"tls_client_certificates": "none"}], ids=["plain text", "certificates not asked for"]
)
async def test_rules_without_a_way_to_know_callers_are_an_error(
    authority: Authority, settings: dict[str, str]
) -> None:
    files = authority.folder("greeter").settings if settings else {}
    service, _ = greeter(**files, **settings, allow=["cart"])
    with pytest.raises(
        ConfigError, match="callers cannot prove who they are: give the service a certificate"
    ):
        async with service:
            pass
    without, own = greeter(**files, **settings, allow=["cart"], authorization="off")
    async with without:
        channel = (
            foreign_channel(without.address, authority.ca)
            if files
            else grpc.aio.insecure_channel(without.address)
        )
        async with channel:
            await stub(channel).SayHello(ADA, timeout=10)
    assert own.served == 1


async def test_generic_handlers_and_foreign_interceptors_are_behind_the_rules_too(
    authority: Authority,
) -> None:
    """They pass no dispatch of pymicro's, if they have a form that only grpc.aio knows."""
    thing = Thing()
    for interceptors in ((), (Passing(),)):
        service = Service(
            "greeter",
            registry=MemoryRegistry(),
            interceptors=interceptors,
            allow=["cart"],
            **authority.folder("greeter").settings,
        )
        own = Greeter()
        service.add(own, pb, partial=True)
        service.add_generic_rpc_handlers((thing,))
        async with service:
            for name, expected in (("thief", "PERMISSION_DENIED"), ("cart", "OK")):
                async with foreign_channel(service.address, authority.ca, own=name) as channel:
                    do = channel.unary_unary("/other.Thing/Do")
                    assert (await code_of(do(name.encode(), timeout=10)))[0].name == expected
                    # As go-micro's callers write paths: by their end.
                    hi = channel.unary_unary("/whatever.Greeter/SayHello", pb.HelloRequest.SerializeToString)
                    assert (await code_of(hi(ADA, timeout=10)))[0].name == expected
        assert len(own.callers) == 1
    assert thing.served == ["cart", "cart"]


async def test_the_access_log_names_the_caller(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pymicro.access")
    async with guarded(authority, allow=[CART], access_log="all") as (service, _):
        async with workload(service, authority, CART) as channel:
            await stub(channel).SayHello(ADA, timeout=10)
        async with workload(service, authority, names=("thief",)) as channel:
            await code_of(stub(channel).SayHello(ADA, timeout=10))

        def lines() -> list[logging.LogRecord]:
            return [one for one in caplog.records if one.name == "pymicro.access"]

        await eventually(lambda: len(lines()) == 2, "both are listed")
    first, second = lines()
    assert f" ({CART})," in first.getMessage()
    assert (first.caller, second.caller) == (CART, "thief")  # type: ignore[attr-defined]
    assert "PERMISSION_DENIED" in second.getMessage()


def test_what_allow_takes_is_checked_early() -> None:
    with pytest.raises(TypeError, match="allow= is a list of callers"):
        handler(allow="cart")  # type: ignore[call-overload]
