"""What is particular to TLS in the event loop, which transport `fast` has."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pymicro_fast")

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import CallContext, Client, MemoryRegistry, Service, Unavailable, handler
from pymicro.identity.contexts import client_context, server_context
from pymicro.identity.files import CertificateFiles
from pymicro.identity.keeper import IdentityKeeper
from tests.certificates import Folder, pem_of, spiffe
from tests.greeting import greeter
from tests.tls.ends import Authority

ADA = pb.HelloRequest(name="Ada")


def context_without_alpn(authority: Authority, own: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem_of(authority.ca).decode())
    context.load_cert_chain(own / "tls.crt", own / "tls.key")
    return context


async def test_a_server_that_has_not_agreed_to_http2_gets_no_call(authority: Authority) -> None:
    folder = authority.folder("greeter")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder.path / "tls.crt", folder.path / "tls.key")
    came = b""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        try:
            came += await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=context)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = authority.folder("cart").settings
    async with server, Client(transport="fast", environ={}, client_tls="require", **settings) as client:
        stub = rpc.GreeterStub(client.channel("greeter", address=address))
        with pytest.raises(Unavailable, match="what listens there speaks TLS, and no HTTP/2"):
            await stub.SayHello(ADA, timeout=10)
    assert b"SayHello" not in came


async def test_a_client_that_has_not_agreed_to_http2_is_left(authority: Authority) -> None:
    service, own = greeter(transport="fast", **authority.folder("greeter").settings)
    async with service:
        host, _, port = service.address.rpartition(":")
        context = context_without_alpn(authority, authority.folder("cart").path)
        reader, writer = await asyncio.open_connection(
            host, int(port), ssl=context, server_hostname="greeter"
        )
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        async with asyncio.timeout(10):
            try:
                while await reader.read(1000):
                    pass
            except OSError:
                pass
        writer.transport.abort()
    assert own.served == 0


async def test_whoever_shakes_no_hands_is_left_after_a_while_and_holds_up_no_stop(
    authority: Authority,
) -> None:
    for options, patience in ((("grpc.server_handshake_timeout_ms", 200),), 10), ((), 0):
        service = Service(
            "greeter",
            registry=MemoryRegistry(),
            transport="fast",
            options=options,
            stop_grace=0,
            **authority.folder("greeter").settings,
        )
        async with asyncio.timeout(15):
            async with service:
                host, _, port = service.address.rpartition(":")
                reader, writer = await asyncio.open_connection(host, int(port))
                if patience:
                    async with asyncio.timeout(patience):
                        assert await reader.read() == b""
            writer.transport.abort()


class Curious:
    """Keeps what each call's context tells of its caller."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, list[bytes]], Any, Any]] = []

    @handler
    async def say_hello(self, request: pb.HelloRequest, context: CallContext) -> pb.HelloReply:
        told = {key: list(values) for key, values in context.auth_context().items()}
        identities = context.peer_identities()
        self.seen.append((told, context.peer_identity_key(), identities and list(identities)))
        return pb.HelloReply()


@pytest.mark.parametrize("kind", ["names and a spiffe id", "addresses", "none"])
async def test_a_handler_is_told_of_its_caller_what_grpc_tells(authority: Authority, kind: str) -> None:
    caller: Folder = authority.folder("cart", "127.0.0.1", "::1", common_name="a cart")
    if kind == "names and a spiffe id":
        cert, key = spiffe(authority.ca, "spiffe://shop/cart", names=("cart", "cart.shop"))
        caller.put(cert, key, pem_of(authority.ca))
    settings = {"tls_ca": authority.ca_file()} if kind == "none" else caller.settings
    asks = "none" if kind == "none" else "require"
    seen = []
    for transport in ("grpc", "fast"):
        registry, curious = MemoryRegistry(), Curious()
        service = Service(
            "greeter",
            registry=registry,
            transport=transport,
            tls_client_certificates=asks,
            **authority.folder("greeter").settings,
        )
        service.add(curious, pb, partial=True)
        async with service, Client(registry=registry, environ={}, **settings) as client:
            await rpc.GreeterStub(client.channel("greeter")).SayHello(ADA, timeout=10)
        seen += curious.seen
    (theirs, *of_grpc), (ours, *of_fast) = seen
    assert of_fast == of_grpc
    # What grpc-core adds in newer versions, or pymicro has no use for.
    for key in (
        "x509_pem_cert",
        "x509_pem_cert_chain",
        "x509_subject",
        "ssl_requested_server_name",
        "ssl_negotiated_key_exchange_group",
    ):
        theirs.pop(key, None)
    assert ours == theirs


async def test_much_goes_both_ways_and_slow_readers_hold_it_up(authority: Authority) -> None:
    """As in plain text: what TLS buffers, neither loses nor reorders anything at the end."""

    class Big:
        @handler
        async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
            return pb.HelloReply(message=request.name * 2)

    registry = MemoryRegistry()
    service = Service(
        "greeter",
        registry=registry,
        transport="fast",
        max_message_size=32 << 20,
        **authority.folder("greeter").settings,
    )
    service.add(Big(), pb, partial=True)
    settings: dict[str, Any] = {**authority.folder("cart").settings, "max_message_size": 32 << 20}
    async with service, Client(registry=registry, environ={}, transport="fast", **settings) as client:
        stub = rpc.GreeterStub(client.channel("greeter"))
        sizes = [1 << power for power in range(0, 24, 3)] * 3
        replies = await asyncio.gather(
            *(stub.SayHello(pb.HelloRequest(name="x" * size), timeout=60) for size in sizes)
        )
        assert [len(reply.message) for reply in replies] == [2 * size for size in sizes]


async def test_contexts_are_made_without_memory_files_too(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    files = CertificateFiles.of(directory=str(authority.folder("greeter").path))
    assert files is not None
    async with IdentityKeeper(files) as keeper:
        assert client_context(keeper.current).check_hostname
        context = server_context(keeper.current, "optional")
    assert context.verify_mode is ssl.CERT_OPTIONAL
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert len(context.get_ca_certs()) == 1
