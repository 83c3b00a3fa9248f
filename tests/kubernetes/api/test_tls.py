"""Connections to the API server: which servers are asked, what is said of others, and what is read again."""

# ruff: noqa: ASYNC240 - files in a temporary folder block nobody in a test

from __future__ import annotations

import re
import ssl
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.errors import KubeError
from tests.certificates import chain_of, issue, key_of, pem_of
from tests.handshakes import outdated, shaking_hands
from tests.kubernetes.api.logins import Clock, data, write
from tests.kubernetes.api.serving import serving

pytestmark = pytest.mark.usefixtures("no_files_left")

CA = trustme.CA()


def server(leaf: trustme.LeafCert, *, clients: ssl.VerifyMode = ssl.CERT_NONE) -> ssl.SSLContext:
    """A server that shows this certificate, and asks for one of CA or not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    context.load_verify_locations(cadata=pem_of(CA).decode())
    context.verify_mode = clients
    return context


def good(**given: Any) -> ssl.SSLContext:
    return server(issue(CA, "127.0.0.1"), **given)


def wrong_authority() -> ssl.SSLContext:
    return server(issue(trustme.CA(), "127.0.0.1"))


def self_signed() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        stranger = trustme.CA()
        file.write(stranger.private_key_pem.bytes() + pem_of(stranger))
        file.flush()
        context.load_cert_chain(file.name)
    return context


def wrong_name() -> ssl.SSLContext:
    return server(issue(CA, "kubernetes.default.svc"))


def expired() -> ssl.SSLContext:
    return server(issue(CA, "127.0.0.1", days=-0.5))


def not_yet_valid() -> ssl.SSLContext:
    return server(issue(CA, "127.0.0.1", since=-1))


CASES: list[tuple[Callable[[], ssl.SSLContext], str]] = [
    (wrong_authority, r"\(its certificate comes from no authority that is believed here: .*ca.crt\)"),
    (self_signed, r"\(its certificate comes from no authority that is believed here: .*ca.crt\)"),
    (wrong_name, r"\(its certificate is for another name: tls-server-name in the kubeconfig says which"),
    (expired, r"\(its certificate, or its authority's, has expired\)"),
    (not_yet_valid, r"\(its certificate is not valid yet: are the clocks right\?\)"),
]


async def asked(path: str) -> None:
    async with KubeClient(lambda: find_cluster([f"kubeconfig={path}"], {})) as client:
        await client.request("GET", "/version")


@pytest.mark.parametrize(("spoil", "sentence"), CASES, ids=[case.__name__ for case, _ in CASES])
async def test_one_sentence_says_why_a_server_is_not_asked(
    tmp_path: Path, spoil: Callable[[], ssl.SSLContext], sentence: str
) -> None:
    trusted = {"certificate-authority-data": data(pem_of(CA).decode())}
    async with serving(tls=spoil()) as served:
        path = write(tmp_path, cluster={"server": served.url, **trusted})
        with pytest.raises(KubeError) as caught:
            await asked(path)
    assert served.requests == []
    assert re.search(sentence, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


async def test_plain_http_is_told(tmp_path: Path) -> None:
    trusted = {"certificate-authority-data": data(pem_of(CA).decode())}
    async with serving() as served:
        path = write(tmp_path, cluster={"server": served.url.replace("http://", "https://"), **trusted})
        with pytest.raises(KubeError, match=r"\(it speaks plain HTTP there\)"):
            await asked(path)


async def ends(tmp_path: Path, context: ssl.SSLContext) -> str:
    """How a request to a server ends that only shakes hands."""
    trusted = {"certificate-authority-data": data(pem_of(CA).decode())}
    with shaking_hands(context) as port:
        path = write(tmp_path, cluster={"server": f"https://127.0.0.1:{port}", **trusted})
        with pytest.raises(KubeError) as caught:
            await asked(path)
    return str(caught.value)


async def test_a_server_that_wants_a_certificate_says_so(tmp_path: Path) -> None:
    text = await ends(tmp_path, good(clients=ssl.CERT_REQUIRED))
    assert "(it does not take the client certificate, or wants one)" in text


async def test_1_2_is_the_lowest_version_whatever_the_machine_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's Python goes by /etc/ssl/openssl.cnf, which may allow 1.0."""
    server, made, seen = outdated(good()), ssl.create_default_context, []

    def lax(*arguments: Any, **given: Any) -> ssl.SSLContext:
        context = made(*arguments, **given)
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers("ALL:@SECLEVEL=0")
        seen.append(context)
        return context

    monkeypatch.setattr(ssl, "create_default_context", lax)
    text = await ends(tmp_path, server)
    assert "(it speaks another version of TLS: 1.2 is the lowest)" in text
    assert [context.minimum_version for context in seen] == [ssl.TLSVersion.TLSv1_2]


class Shown:
    """A client certificate in files beside a kubeconfig."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self.put("first")
        self.path = write(
            folder,
            cluster={"server": url, "certificate-authority-data": data(pem_of(CA).decode())},
            user={"client-certificate": "own.pem", "client-key": "own.key"},
        )

    def put(self, name: str, *, key: bool = True, **given: Any) -> trustme.LeafCert:
        """A certificate with this common name, and with its key or still with the one before."""
        leaf = issue(CA, "client.example", common_name=name, **given)
        (self._folder / "own.pem").write_bytes(chain_of(leaf))
        if key:
            self.put_key(leaf)
        return leaf

    def put_key(self, leaf: trustme.LeafCert) -> None:
        (self._folder / "own.key").write_bytes(key_of(leaf))


async def test_a_client_certificate_is_read_again_when_its_files_change(tmp_path: Path, clock: Clock) -> None:
    async with serving(tls=good(clients=ssl.CERT_REQUIRED)) as served:
        own = Shown(tmp_path, served.url)
        async with KubeClient(lambda: find_cluster([f"kubeconfig={own.path}"], {}, clock=clock)) as client:
            await client.request("GET", "/version")
            own.put("second")
            clock.now += 1.0
            await client.request("GET", "/version")
            assert served.peers == ["first", "second"]
            assert len(client._transports) == 1


async def test_a_certificate_whose_key_comes_a_moment_later_fails_no_request(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tls=good(clients=ssl.CERT_REQUIRED)) as served:
        own = Shown(tmp_path, served.url)
        async with KubeClient(lambda: find_cluster([f"kubeconfig={own.path}"], {}, clock=clock)) as client:
            await client.request("GET", "/version")
            leaf = own.put("second", key=False)
            for _ in range(3):
                clock.now += 1.0
                await client.request("GET", "/version")
            own.put_key(leaf)
            clock.now += 1.0
            await client.request("GET", "/version")
            assert served.peers == ["first"] * 4 + ["second"]
    (line,) = [one.getMessage() for one in caplog.records if "cannot be used" in one.getMessage()]
    assert line.endswith("; going on with those before")
    assert "KEY_VALUES_MISMATCH" in line


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"days": -0.5}, r"; the client certificate \(client.example\) has expired: it was valid until 20"),
        ({"since": -1}, r"; the client certificate \(client.example\) is not valid before 20"),
        ({}, r"accept the credentials of ada \(401.*\)$"),
    ],
)
async def test_a_401_says_that_the_client_certificate_is_not_valid_now(
    tmp_path: Path, given: dict[str, float], sentence: str
) -> None:
    """A real API server asks for certificates and insists on none: one that has expired is nobody's."""

    async def nobody(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "reason": "Unauthorized"}, status=401)

    async with serving(nobody, tls=good()) as served:
        own = Shown(tmp_path, served.url)
        own.put("ada", **given)
        with pytest.raises(KubeError, match=sentence) as caught:
            await asked(own.path)
    assert caught.value.status == 401


async def test_no_key_is_on_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a moment: a process that is killed would leave it there."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("only Linux has files that are on no disk")
    made: list[Any] = []
    async with serving(tls=good(clients=ssl.CERT_REQUIRED)) as served:
        own = Shown(tmp_path, served.url)
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "TemporaryDirectory", made.append)
            patch.setattr(tempfile, "NamedTemporaryFile", made.append)
            await asked(own.path)
    assert made == []
