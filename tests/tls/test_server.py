"""A server with a certificate, as foreign clients see it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import warnings
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography.x509 import load_der_x509_certificate

from greeter.v1 import greeter_pb2 as pb
from pymicro import Service
from pymicro.base.errors import ConfigError, StartError
from pymicro.nodes.wellknown import tls_port
from tests.certificates import Folder, issue, pem_of
from tests.greeting import greeter
from tests.processes import Processes
from tests.serving.serving import eventually
from tests.tls.ends import Authority, foreign_channel, stub

ADA = pb.HelloRequest(name="Ada")
WITH_NAME = 'from pymicro import Service\nService("greeter").run()\n'


async def refused(channel: grpc.aio.Channel) -> str:
    """The text with which a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub(channel).SayHello(ADA, timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return caught.value.details() or ""


async def shown(service: Service, client: bytes, authority: Authority) -> int:
    """The serial number of the certificate that a server shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem_of(authority.ca).decode())
    context.load_cert_chain(client.decode())
    context.set_alpn_protocols(["h2"])
    host, _, port = service.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="greeter")
    found = load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(True))
    writer.transport.abort()
    return found.serial_number


async def test_a_caller_with_a_certificate_is_served(authority: Authority) -> None:
    service, own = greeter(**authority.folder("greeter").settings)
    async with service, foreign_channel(service.address, authority.ca, own="cart") as channel:
        assert (await stub(channel).SayHello(ADA, timeout=10)).message == "Hello Ada"
    assert own.served == 1


@pytest.mark.parametrize(
    "client",
    [
        lambda address, ca: foreign_channel(address, ca),
        lambda address, ca: foreign_channel(address, ca, own="cart", shown_by=trustme.CA()),
        lambda address, ca: grpc.aio.insecure_channel(address),
    ],
    ids=["without a certificate", "with one of another authority", "in plain text"],
)
async def test_no_other_caller_is(authority: Authority, client: Any) -> None:
    service, own = greeter(**authority.folder("greeter").settings)
    async with service, client(service.address, authority.ca) as channel:
        await refused(channel)
    assert own.served == 0


async def test_certificates_of_callers_need_not_be_asked_for(authority: Authority) -> None:
    service, _ = greeter(**authority.folder("greeter").settings, tls_client_certificates="none")
    async with service:
        for own in ("", "cart"):
            async with foreign_channel(service.address, authority.ca, own=own) as channel:
                await stub(channel).SayHello(ADA, timeout=10)


async def test_certificates_of_callers_may_be_asked_for_without_insisting(
    authority: Authority, transport: str
) -> None:
    service, _ = greeter(**authority.folder("greeter").settings, tls_client_certificates="optional")
    if transport == "fast":
        async with service:
            for own in ("", "cart"):
                async with foreign_channel(service.address, authority.ca, own=own) as channel:
                    await stub(channel).SayHello(ADA, timeout=10)
            async with foreign_channel(
                service.address, authority.ca, own="cart", shown_by=trustme.CA()
            ) as channel:
                await refused(channel)
        return
    with pytest.raises(ConfigError, match="transport grpc can only require certificates, or not ask"):
        async with service:
            pass


async def test_a_new_certificate_is_shown_without_a_restart_and_calls_go_on(
    authority: Authority, tmp_path: Path
) -> None:
    folder = authority.folder("greeter")
    service, own = greeter(**folder.settings)
    client = tmp_path / "client.pem"
    client.write_bytes(issue(authority.ca, "cart").private_key_and_cert_chain_pem.bytes())
    async with service, foreign_channel(service.address, authority.ca, own="cart") as channel:
        slow = stub(channel).SayHello(pb.HelloRequest(name="slow"), timeout=30)
        await own.begun.wait()
        before = await shown(service, str(client).encode(), authority)
        assert before == await shown(service, str(client).encode(), authority)
        seen = {before}
        for _ in range(3):
            folder.issue(authority.ca, "greeter")
            async with asyncio.timeout(20):
                while (now := await shown(service, str(client).encode(), authority)) in seen:  # noqa: ASYNC110  # each look is a handshake
                    await asyncio.sleep(0.01)
            seen.add(now)
        own.go.set()
        assert (await slow).message == "Hello slow"


async def test_callers_of_a_new_authority_are_taken_without_a_restart(authority: Authority) -> None:
    folder, newer = authority.folder("greeter"), trustme.CA()
    service, own = greeter(**folder.settings)
    async with service:
        async with foreign_channel(service.address, authority.ca, own="cart", shown_by=newer) as channel:
            await refused(channel)
        assert service.client.identity is not None
        folder.issue(authority.ca, "greeter", believe=pem_of(authority.ca) + pem_of(newer))
        keeper = service.client.identity
        await eventually(lambda: keeper.taken == 2, "it is taken")
        async with foreign_channel(service.address, authority.ca, own="cart", shown_by=newer) as channel:
            await stub(channel).SayHello(ADA, timeout=10)
    assert own.served == 1


async def test_a_second_port_serves_plain_text_and_the_record_names_both(authority: Authority) -> None:
    service, own = greeter(
        **authority.folder("greeter").settings, tls_plain_address="127.0.0.1:0", registry="memory"
    )
    async with service:
        assert service.node.address != service.address
        assert str(tls_port(service.node.metadata)) == service.address.rpartition(":")[2]
        async with grpc.aio.insecure_channel(service.node.address) as channel:
            await stub(channel).SayHello(ADA, timeout=10)
        async with foreign_channel(service.address, authority.ca, own="cart") as channel:
            await stub(channel).SayHello(ADA, timeout=10)
    assert own.served == 2


@pytest.mark.parametrize(
    ("settings", "plain", "tls"),
    [
        ({}, False, 0),
        # Whoever is elsewhere cannot reach that one.
        ({"server_address": "0.0.0.0:0", "tls_plain_address": "127.0.0.1:0"}, False, 0),
        # The operator's word.
        ({"tls_plain_address": "127.0.0.1:0", "server_advertise": "10.0.0.1:8443"}, False, 0),
        ({"tls_plain_address": "127.0.0.1:0", "server_advertise": "10.0.0.1"}, True, None),
        ({"tls_plain_address": "127.0.0.1:0", "server_metadata": {"tls": ""}}, True, -1),
    ],
)
async def test_what_the_record_says(
    authority: Authority, settings: dict[str, Any], plain: bool, tls: int | None
) -> None:
    service, _ = greeter(**authority.folder("greeter").settings, **settings)
    async with service:
        port = int(service.address.rpartition(":")[2])
        node = service.node
        if settings.get("server_advertise") == "10.0.0.1:8443":
            assert node.address == "10.0.0.1:8443"
        else:
            assert node.address.endswith(f":{port}") is not plain
        expected = {None: port, -1: None}.get(tls, tls)
        assert tls_port(node.metadata) == expected


async def test_a_plain_address_without_a_certificate_is_an_error(authority: Authority) -> None:
    for settings in ({}, {"tls_ca": authority.ca_file()}):
        service, _ = greeter(tls_plain_address="127.0.0.1:0", **settings)
        with pytest.raises(ConfigError, match=r"tls_plain_address '127.0.0.1:0': without a certificate"):
            async with service:
                pass


@pytest.mark.parametrize(
    ("address", "kind", "sentence"),
    [
        ("127.0.0.1:{taken}", StartError, "choose another --tls-plain-address"),
        ("nowhere", ConfigError, "^tls_plain_address 'nowhere'"),
    ],
)
async def test_a_plain_address_that_cannot_be_had_is_named(
    authority: Authority, address: str, kind: type[Exception], sentence: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = address.format(taken=taken.getsockname()[1])
        service, _ = greeter(**authority.folder("greeter").settings, tls_plain_address=address)
        with pytest.raises(kind, match=sentence):
            async with service:
                pass


async def test_who_has_authorities_only_serves_plain_text(authority: Authority) -> None:
    service, own = greeter(tls_ca=authority.ca_file())
    async with service, grpc.aio.insecure_channel(service.address) as channel:
        assert tls_port(service.node.metadata) is None
        await stub(channel).SayHello(ADA, timeout=10)
    assert own.served == 1


def test_bad_certificates_at_the_start_are_one_line_and_exit_2(
    authority: Authority, processes: Processes, tmp_path: Path
) -> None:
    folder: Folder = authority.folder("greeter", days=-0.5)
    program = tmp_path / "app.py"
    program.write_text(WITH_NAME)
    process = processes.python(str(program), "--tls-dir", str(folder.path))
    assert process.wait() == 2
    errors = "\n".join(process.stderr)
    assert "has expired: it was valid until" in errors
    assert "Traceback" not in errors


async def test_versions_before_1_2_are_refused(authority: Authority) -> None:
    service, _ = greeter(**authority.folder("greeter").settings, tls_client_certificates="none")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem_of(authority.ca).decode())
    # Whatever OpenSSL was built with, it may offer the old ones here.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    async with service:
        host, _, port = service.address.rpartition(":")

        async def version() -> str:
            _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="greeter")
            found: str = writer.get_extra_info("ssl_object").version()
            writer.transport.abort()
            return found

        assert await version() == "TLSv1.3"
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await version() == "TLSv1.2"
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError):  # an alert, or grpc-core's end of the connection
            await version()
