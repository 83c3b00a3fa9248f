"""What is said of a connection that TLS refused: one table, whichever transport is at which end.

Each row has the text of the client's error, what the doctor says of the node, and what stands in the
server's log. grpc-core tells a server nothing of a handshake, so that is for servers of transport fast; and
of a client that ends it the server hears nothing, for both grpc-core and asyncio keep the alert to themselves
(grpc-go sends it: tests/interop/test_grpc_go_tls.py). What never comes to a handshake, half a file or the key
of another, is in tests/identity/test_rejections.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import trustme
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import Client, MemoryRegistry, Unavailable
from pymicro.cli.doctor_nodes import check_nodes
from tests.certificates import Folder, Made, pem_of
from tests.greeting import greeter
from tests.handshakes import as_told, outdated, shaking_hands
from tests.serving.serving import eventually
from tests.tls.ends import Authority, pairings

ADA = pb.HelloRequest(name="Ada")


@dataclass
class Ends:
    """What both ends of a case have.

    Attributes:
        authority: Of both.
        server: Settings of the server.
        client: Settings of the client.
    """

    authority: Authority
    server: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)

    def both(self) -> tuple[Folder, Folder]:
        """A certificate for each that the other one believes; the folders of server and client."""
        server, client = self.authority.folder("greeter"), self.authority.folder("cart")
        self.server |= server.settings
        self.client |= client.settings
        return server, client


def wrong_authority(ends: Ends) -> None:
    _, client = ends.both()
    client.issue(trustme.CA(), "cart")


def self_signed(ends: Ends) -> None:
    """The server believes itself, which its own check has to pass."""
    server, _ = ends.both()
    itself = trustme.CA()
    server.put(pem_of(itself), itself.private_key_pem.bytes(), pem_of(itself))


def expired(ends: Ends) -> None:
    """It has passed the server's own check when it started."""
    server, _ = ends.both()
    server.issue(ends.authority.ca, "greeter", days=-0.5)


def not_yet_valid(ends: Ends) -> None:
    """The server's clock is wrong, say."""
    server, _ = ends.both()
    server.issue(ends.authority.ca, "greeter", since=-1)


def wrong_name(ends: Ends) -> None:
    server, _ = ends.both()
    server.issue(ends.authority.ca, "other", "10.0.0.1")


def no_name_but_the_address(ends: Ends) -> None:
    server, _ = ends.both()
    server.issue(ends.authority.ca, "127.0.0.1")


def no_certificate(ends: Ends) -> None:
    ends.both()
    del ends.client["tls_dir"]
    ends.client["tls_ca"] = ends.authority.ca_file()


def client_of_another_authority(ends: Ends) -> None:
    _, client = ends.both()
    stranger = trustme.CA()
    client.issue(stranger, "cart", believe=pem_of(ends.authority.ca) + pem_of(stranger))


def client_has_expired(ends: Ends) -> None:
    _, client = ends.both()
    client.issue(ends.authority.ca, "cart", days=-0.5)


def client_is_not_yet_valid(ends: Ends) -> None:
    _, client = ends.both()
    client.issue(ends.authority.ca, "cart", since=-1)


def for_one_end_only(ends: Ends, name: str, use: x509.ObjectIdentifier) -> None:
    top = Made(name="Top", authority=True)
    believed = pem_of(ends.authority.ca) + top.pem
    for folder, whose in zip(ends.both(), ("greeter", "cart"), strict=True):
        if whose == name:
            leaf = Made(top, name, extensions=(x509.ExtendedKeyUsage([use]),))
            folder.put(leaf.pem, leaf.key_pem, believed)
        else:
            folder.issue(ends.authority.ca, whose, believe=believed)


def node_is_for_clients_only(ends: Ends) -> None:
    for_one_end_only(ends, "greeter", ExtendedKeyUsageOID.CLIENT_AUTH)


def client_is_for_servers_only(ends: Ends) -> None:
    for_one_end_only(ends, "cart", ExtendedKeyUsageOID.SERVER_AUTH)


def plain_text_to_tls(ends: Ends) -> None:
    ends.both()
    ends.client = {"client_tls": "off"}


def tls_to_plain_text(ends: Ends) -> None:
    ends.both()
    ends.server = {}
    ends.client["client_tls"] = "require"


def nothing_to_check_with(ends: Ends) -> None:
    ends.both()
    ends.client = {}


class Told(NamedTuple):
    """A row of the table.

    Attributes:
        spoil: What is wrong.
        client: A pattern for the text of the client's error, and for the doctor's sentence.
        server: For the line in the log of a server of transport fast; empty if it has none.
    """

    spoil: Callable[[Ends], object]
    client: str
    server: str = ""


NO_AUTHORITY = "the node's certificate comes from no authority of tls_ca"
WRONG_NAME = r"the node's certificate is not for the name 'greeter' \(tls_server_name\)"
CASES = [
    Told(wrong_authority, NO_AUTHORITY),
    Told(self_signed, NO_AUTHORITY),
    Told(expired, "the node's certificate has expired"),
    Told(not_yet_valid, r"the node's certificate is not valid yet \(are the clocks right\?\)"),
    Told(wrong_name, WRONG_NAME),
    Told(no_name_but_the_address, WRONG_NAME),
    Told(
        no_certificate,
        r"perhaps it asks for a certificate, and this process has none \(tls_dir, tls_bundle,",
        "it showed no certificate",
    ),
    Told(
        client_of_another_authority,
        "perhaps it does not believe this process's certificate",
        "its certificate comes from no authority of tls_ca",
    ),
    Told(
        client_has_expired,
        r"this process's own certificate expired at 20\d\d-.* UTC, and its files have no newer one",
        "its certificate has expired",
    ),
    Told(
        client_is_not_yet_valid,
        "perhaps it does not believe this process's certificate",
        r"its certificate is not valid yet \(are the clocks right\?\)",
    ),
    Told(
        node_is_for_clients_only,
        r"the node's certificate is of no use here: unsu(pport|it)\w+ certificate purpose",
    ),
    Told(
        client_is_for_servers_only,
        "perhaps it does not believe this process's certificate",
        "its certificate is of no use here: unsuitable certificate purpose",
    ),
    Told(
        plain_text_to_tls,
        r"it ended the connection: perhaps it speaks TLS \(client_tls, tls_ca\)",
        "it spoke plain text",
    ),
    Told(tls_to_plain_text, r"the node speaks plain text there, and this process wants TLS \(client_tls\)"),
    Told(
        nothing_to_check_with,
        "it speaks TLS, and its certificate cannot be checked here: set tls_ca, or tls_dir",
    ),
]


@pytest.mark.parametrize(("serving", "calling"), pairings())
@pytest.mark.parametrize("told", CASES, ids=[case.spoil.__name__ for case in CASES])
async def test_one_sentence_says_why_a_node_cannot_be_called(
    authority: Authority,
    serving: str,
    calling: str,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends, registry = Ends(authority), MemoryRegistry()
    told.spoil(ends)
    # As if the certificates had been good when both ends read them.
    monkeypatch.setattr("pymicro.identity.checking._check_time", lambda *_: None)
    service, own = greeter(registry, transport=serving, **ends.server)
    opened = Client(registry=registry, environ={}, transport=calling, client_first_wait=0, **ends.client)
    async with service, opened:
        stub = rpc.GreeterStub(opened.channel("greeter"))
        with pytest.raises(Unavailable) as caught:
            await stub.SayHello(ADA, timeout=20)
        assert re.search(as_told(told.client, calling), caught.value.details()), caught.value.details()
        assert caught.value.from_peer is not True

        def line() -> str:
            return next((one for one in caplog.messages if one.startswith("a caller at 127.0.0.1:")), "")

        if serving == "fast" and told.server:
            await eventually(line, "the server says why")
            assert re.search(rf" was not taken: {told.server}$", line()), line()
        else:
            assert line() == ""
        caplog.clear()
        (finding,) = [one async for one in check_nodes([service.node], opened.config, opened.core.tls)]
        assert finding.level == "problem"
        assert re.search(as_told(told.client, calling), finding.text), finding
        assert "\n" not in finding.text
        assert "failed to connect" not in finding.text
        # What to change is a setting, a file or a clock.
        changed = f"{finding.text} {finding.fix}"
        assert re.search(r"tls_\w+|client_tls|the clock", changed), finding
        assert finding.fix or "set tls_ca" in finding.text
    assert own.served == 0


@pytest.mark.parametrize("calling", ["grpc", "fast"])
async def test_a_node_that_speaks_nothing_newer_than_1_1_is_not_called(
    authority: Authority, calling: str
) -> None:
    if calling == "fast":
        pytest.importorskip("pymicro_fast")
    folder = authority.folder("greeter")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder.path / "tls.crt", folder.path / "tls.key")
    settings = {"transport": calling, "client_tls": "require", **authority.folder("cart").settings}
    with shaking_hands(outdated(context)) as port:
        async with Client(registry="memory", environ={}, client_first_wait=0, **settings) as client:
            stub = rpc.GreeterStub(client.channel("greeter", address=f"127.0.0.1:{port}"))
            with pytest.raises(Unavailable, match=r"speaks another version of TLS: 1\.2 is the lowest"):
                await stub.SayHello(ADA, timeout=20)


async def test_whoever_only_looks_whether_the_port_is_open_is_no_news(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """A load balancer does so every few seconds."""
    pytest.importorskip("pymicro_fast")
    service, _ = greeter(transport="fast", **authority.folder("greeter").settings)
    async with service:
        host, _, port = service.address.rpartition(":")
        for sends in (b"", b"\x16\x03\x01"):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(sends)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        keeper = service.client.identity
        assert keeper is not None
        await eventually(lambda: keeper.served["failed"] == 2, "both have ended")
    assert [one for one in caplog.messages if "was not taken" in one] == []


@pytest.mark.parametrize(("serving", "calling"), pairings())
async def test_and_the_good_case(authority: Authority, serving: str, calling: str) -> None:
    ends, registry = Ends(authority), MemoryRegistry()
    ends.both()
    service, own = greeter(registry, transport=serving, **ends.server)
    opened = Client(registry=registry, environ={}, transport=calling, client_tls="require", **ends.client)
    async with service, opened:
        stub = rpc.GreeterStub(opened.channel("greeter"))
        for _ in range(10):
            assert (await stub.SayHello(ADA, timeout=20)).message == "Hello Ada"
    assert own.served == 10
