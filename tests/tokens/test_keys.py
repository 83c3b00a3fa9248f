"""Keys of issuers: fetched beside the calls, kept, followed, and never asked for more than now and then."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import ConfigError, MemoryRegistry, bearer_jwt, bearer_token, kubernetes_jwt
from pymicro.identity import issuer_keys
from pymicro.identity.bearer_tokens import MOST_FAILURES, BearerTokens
from pymicro.identity.issuer_keys import KeyPlace, in_cluster
from pymicro.identity.jwt_check import BadKeys, keys_of
from pymicro.identity.verdict import Proven, Rejected
from tests.certificates import pem_of
from tests.kubernetes.api.certificates import plain_certificates
from tests.serving.serving import eventually
from tests.tls.ends import Authority, foreign_channel
from tests.tokens.issuer import AUDIENCE, ISSUER, Issuer, KeyServer, jwk_of, new_key, unsigned
from tests.tokens.test_calls import OK, UNAUTHENTICATED, bearer, said
from tests.tokens.test_sending import calling, secured, service, write


def accepted(server: KeyServer, **more: Any) -> Any:
    return bearer_jwt(ISSUER, AUDIENCE, server.url, ca=server.ca_file, **more)


async def test_keys_are_fetched_over_tls_and_once(key_server: KeyServer, issuer: Issuer) -> None:
    key_server.serve(issuer)
    async with BearerTokens([accepted(key_server)]) as tokens:
        for name in ("a", "b", "c"):
            assert isinstance(await tokens.ask(issuer.token(sub=name), "host"), Proven)
    assert [path for path, _ in key_server.asked] == ["/jwks"]
    assert "Authorization" not in key_server.asked[0][1]


async def test_a_new_key_is_fetched_when_a_token_names_it_and_no_call_fails(
    key_server: KeyServer, issuer: Issuer, authority: Authority
) -> None:
    key_server.serve(issuer)
    made, own = service(MemoryRegistry(), accepted(key_server), **secured(authority))
    async with made, foreign_channel(made.address, authority.ca) as channel:
        assert await said(channel, bearer(issuer.token())) == (OK, "")
        old = issuer.token(sub="old")
        issuer.add("two")
        key_server.serve(issuer)
        calls = [said(channel, bearer(issuer.token(sub=f"caller-{number}"))) for number in range(20)]
        assert set(await asyncio.gather(*calls, said(channel, bearer(old)))) == {(OK, "")}
    assert len(key_server.asked) == 2
    assert len(own.seen) == 22


async def test_a_key_that_is_taken_away_vouches_for_nobody(issuer: Issuer) -> None:
    async with BearerTokens([bearer_jwt(ISSUER, AUDIENCE, str(issuer.path))]) as tokens:
        token = issuer.token()
        assert isinstance(await tokens.ask(token, "host"), Proven)
        del issuer.keys["one"]
        issuer.add("two")
        await eventually(lambda: tokens.known(token) is None, "the file is read again")
        found = await tokens.ask(token, "host")
        assert isinstance(found, Rejected)
        assert "no key of that name" in found.why
        assert isinstance(await tokens.ask(issuer.token(), "host"), Proven)


async def test_a_bad_file_is_told_and_the_keys_before_go_on(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    async with BearerTokens([bearer_jwt(ISSUER, AUDIENCE, str(issuer.path))]) as tokens:
        assert isinstance(await tokens.ask(issuer.token(sub="one"), "host"), Proven)
        issuer.path.write_text("{}")
        await eventually(lambda: "those before go on" in caplog.text, "it is told")
        assert isinstance(await tokens.ask(issuer.token(sub="two"), "host"), Proven)

    errors = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
    assert errors == [
        f"keys of {ISSUER} are not to be had, and those before go on: "
        f"{issuer.path} has no list `keys`: it is no set of keys (JWKS)"
    ]


async def test_a_file_of_no_use_is_an_error_at_the_start(tmp_path: Path) -> None:
    for contents, why in ((None, "cannot be read"), ("", "is empty"), ("[]", "no list `keys`")):
        path = tmp_path / "keys.json"
        if contents is not None:
            path.write_text(contents)
        with pytest.raises(ConfigError, match=f"keys of {ISSUER}: .*{why}"):
            async with BearerTokens([bearer_jwt(ISSUER, AUDIENCE, str(path))]):
                pass


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((404, {}, b""), "answers 404"),
        ((500, {}, b"x" * 100), "answers 500"),
        ((302, {"Location": "https://127.0.0.1:1/"}, b""), "answers 302"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), "answers 302"),
        ((200, {}, b"<html>"), "is no JSON"),
        ((200, {}, b" " * (2 << 20)), "sends more than 1 MiB"),
        ((200, {"Content-Length": "100"}, b"{}"), "cannot be fetched|is no|no list"),
    ],
    ids=["404", "500", "redirect", "redirect to plain", "html", "huge", "cut off"],
)
def test_what_is_no_set_of_keys_is_a_sentence(key_server: KeyServer, answer: Any, why: str) -> None:
    key_server.answer = answer
    place = KeyPlace(key_server.url, key_server.ca_file)
    with pytest.raises(BadKeys, match=why) as caught:
        keys_of(place.read(), place.where)
    assert str(caught.value).startswith(key_server.url)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "begins",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
    ids=["status", "head", "length of a chunk", "body"],
)
def test_an_answer_that_comes_byte_by_byte_is_not_waited_for(
    tmp_path: Path, begins: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, and the last one never: a service could neither start nor stop."""
    monkeypatch.setattr(issuer_keys, "_WHOLE", 0.3)
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca, given_up = tmp_path / "ca.pem", threading.Event()

    def drip(listening: socket.socket) -> None:
        found, _ = listening.accept()
        with contextlib.suppress(OSError), context.wrap_socket(found, server_side=True) as met:
            met.recv(4096)
            met.sendall(begins)
            while not given_up.wait(0.01):
                met.sendall(b"0")

    ca.write_bytes(pem_of(authority))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        place = KeyPlace(f"https://127.0.0.1:{listening.getsockname()[1]}/jwks", str(ca))
        asking = ThreadPoolExecutor(1)
        try:
            with pytest.raises(BadKeys, match=r"jwks has not sent all of it after 0\.3 s$"):
                asking.submit(place.read).result(20)
        finally:
            given_up.set()
            asking.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("kind", "why"),
    [("pipe", "is no file, where a file with PEM is wanted"), ("folder", "is a directory"), ("text", "")],
)
def test_authorities_are_read_like_all_files(
    key_server: KeyServer, issuer: Issuer, tmp_path: Path, kind: str, why: str
) -> None:
    """A pipe holds nobody up, and words between certificates may be in any language."""
    key_server.serve(issuer)
    ca = tmp_path / "ca"
    if kind == "pipe":
        os.mkfifo(ca)
    elif kind == "folder":
        ca.mkdir()
    else:
        ca.write_bytes("# für Prüfer\n".encode("latin-1") + Path(key_server.ca_file).read_bytes())
    place = KeyPlace(key_server.url, str(ca))
    if not why:
        assert keys_of(place.read(), place.where).count == 1
        return
    with pytest.raises(BadKeys, match=why) as caught:
        place.read()
    assert str(caught.value).startswith(f"{key_server.url} cannot be fetched: ")


def test_whoever_cannot_prove_his_name_is_not_believed(
    key_server: KeyServer, issuer: Issuer, tmp_path: Path
) -> None:
    key_server.serve(issuer)
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    for ca in (str(other), ""):
        with pytest.raises(BadKeys, match="CERTIFICATE_VERIFY_FAILED"):
            KeyPlace(key_server.url, ca).read()
    with pytest.raises(BadKeys, match=r"cannot be fetched: .*No such file"):
        KeyPlace(key_server.url, str(tmp_path / "none.pem")).read()
    with pytest.raises(BadKeys, match="cannot be fetched"):
        KeyPlace("https://127.0.0.1:1/jwks", key_server.ca_file).read()
    assert key_server.asked == []


@pytest.mark.parametrize("kind", ["no root", "no key identifiers"])
def test_certificates_of_many_clusters_are_good_ones(kind: str, issuer: Issuer, tmp_path: Path) -> None:
    """As for the registry: Python 3.13 by itself would take neither."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if kind == "no root":
        middle = trustme.CA().create_child_ca()
        middle.issue_cert("127.0.0.1").configure_cert(context)
        authority = pem_of(middle)
    else:
        text, chain, _ = plain_certificates()
        (tmp_path / "server.pem").write_text(chain)
        context.load_cert_chain(tmp_path / "server.pem")
        authority = text.encode()
    with KeyServer(context, authority, tmp_path) as server:
        server.serve(issuer)
        assert keys_of(KeyPlace(server.url, server.ca_file).read(), "jwks").count == 1


async def test_an_issuer_that_is_away_keeps_nobody_from_starting(
    key_server: KeyServer,
    issuer: Issuer,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(issuer_keys, "AGAIN", 0.02)
    made, own = service(MemoryRegistry(), accepted(key_server), **secured(authority))
    async with made, foreign_channel(made.address, authority.ca) as channel:
        code, text = await said(channel, bearer(issuer.token()))
        assert code is grpc.StatusCode.UNAVAILABLE  # another node may know the keys
        assert "the keys of its issuer are not to be had" in text
        await eventually(lambda: len(key_server.asked) > 4, "it asks again")
        key_server.serve(issuer)
        while (await said(channel, bearer(issuer.token())))[0] is not OK:
            pass
    errors = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
    assert len(errors) == 1  # said once, however often it was tried
    assert "its tokens cannot be checked" in errors[0]
    assert "answers 404" in errors[0]
    assert len(own.seen) == 1


async def test_an_issuer_that_does_not_answer_holds_up_nobody_else(
    key_server: KeyServer, issuer: Issuer, authority: Authority, tmp_path: Path
) -> None:
    """Its keys are wanted by a token of a name that it does not know; other callers go on."""
    key_server.serve(issuer)
    made, own = service(MemoryRegistry(), accepted(key_server), **secured(authority))
    async with made, foreign_channel(made.address, authority.ca) as channel:
        good = bearer(issuer.token())
        assert await said(channel, good) == (OK, "")
        key_server.held.clear()
        stranger = asyncio.ensure_future(said(channel, bearer(issuer.token(header={"kid": "none"}))))
        await eventually(lambda: len(key_server.asked) == 2, "the keys are fetched again")
        for number in range(20):
            assert await said(channel, good) == (OK, "")
            assert await said(channel, bearer(issuer.token(sub=f"new-{number}"))) == (OK, "")
        assert not stranger.done()
        key_server.held.set()
        assert (await stranger)[0] is UNAUTHENTICATED
    assert len(own.seen) == 41


async def test_a_fetch_that_began_before_is_not_waited_for(
    key_server: KeyServer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new key may have been published meanwhile: the token that names it waits for the next fetch."""
    monkeypatch.setattr(issuer_keys, "PERIOD", 0.05)
    key_server.serve(issuer)
    async with BearerTokens([accepted(key_server)]) as tokens:
        key_server.held.clear()
        count = len(key_server.asked)
        await eventually(lambda: len(key_server.asked) > count, "it looks again")
        # What is on its way has the old keys.
        issuer.add("two")
        key_server.serve(issuer)
        _, followed = tokens._issuers[ISSUER]
        asking = asyncio.ensure_future(tokens.ask(issuer.token(), "host"))
        await eventually(lambda: followed._looking is not None, "new keys are wanted")
        key_server.held.set()
        assert isinstance(await asking, Proven)


async def test_strangers_tokens_cost_little(
    key_server: KeyServer, issuer: Issuer, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Two thousand bad ones: a bounded number is looked at, the issuer is asked once, the log is short."""
    key_server.serve(issuer)
    made, own = service(MemoryRegistry(), accepted(key_server), **secured(authority))
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "root", "exp": 9e9}
    async with made, foreign_channel(made.address, authority.ca) as channel:
        good = bearer(issuer.token())
        assert await said(channel, good) == (OK, "")
        authentication = made._running._server._guard.authentication  # type: ignore[union-attr]
        assert authentication is not None
        tokens = authentication.tokens
        assert tokens is not None
        before, began = tokens.checks, time.monotonic()
        codes = []
        for start in range(0, 2000, 100):
            flood = [
                said(channel, bearer(unsigned({"alg": "ES256", "kid": f"k{number}"}, claims, b"x" * 64)))
                for number in range(start, start + 100)
            ]
            codes += await asyncio.gather(*flood)
            # Who is known goes on meanwhile.
            assert await said(channel, good) == (OK, "")
        seconds = time.monotonic() - began
        assert {code for code, _ in codes} <= {UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE}
        # Those of one second, with what may wait at its end, and each at most twice.
        most = 2 * (seconds + 2) * (MOST_FAILURES + 100)
        assert tokens.checks - before <= most
        assert len(tokens._bad) <= 1024
        assert not tokens._asked
        assert not tokens._waiting
    assert len(own.seen) == 21
    assert len(key_server.asked) <= 2 + seconds / issuer_keys.GAP
    lines = [one for one in caplog.records if "may not call" in one.getMessage()]
    assert len(lines) <= 20 * (seconds // 60 + 1)


async def test_what_one_host_may_have_checked_is_bounded_and_others_go_on(issuer: Issuer) -> None:
    async with BearerTokens([bearer_jwt(ISSUER, AUDIENCE, str(issuer.path))], lambda: 1.0) as tokens:
        bad = [issuer.token(aud=f"a{number}") for number in range(MOST_FAILURES + 10)]
        found = [await tokens.ask(token, "stranger") for token in bad]
        assert [isinstance(one, Rejected) and one.busy for one in found] == [False] * MOST_FAILURES + [
            True
        ] * 10
        assert tokens.checks == MOST_FAILURES
        assert tokens.known(bad[-1]) is None  # nobody has looked at it
        assert isinstance(await tokens.ask(issuer.token(), "friend"), Proven)


def mounted(folder: Path, token: str, ca_file: str) -> Path:
    """A service account as the kubelet mounts it."""
    account = folder / "serviceaccount"
    account.mkdir()
    (account / "token").write_text(token)
    (account / "ca.crt").write_bytes(Path(ca_file).read_bytes())
    return account


async def test_the_pod_s_cluster(
    key_server: KeyServer, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issuer and way are those of the pod's own token, which is shown to the API server."""
    key_server.serve(issuer)
    own = issuer.token(iss=ISSUER, aud="https://kubernetes.default.svc")
    account = mounted(tmp_path, own, key_server.ca_file)
    host, port = key_server.url.removeprefix("https://").removesuffix("/jwks").split(":")
    environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    found, place = in_cluster(environ, str(account))
    assert found == ISSUER
    assert place.where == f"https://{host}:{port}/openid/v1/jwks"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.setattr(issuer_keys.in_cluster, "__defaults__", (None, str(account)))
    async with BearerTokens([kubernetes_jwt("greeter")]) as tokens:
        assert isinstance(await tokens.ask(issuer.token(), "host"), Proven)
        assert isinstance(await tokens.ask(own, "host"), Rejected)  # meant for the API server
    ((path, headers),) = key_server.asked
    assert (path, headers["Authorization"]) == ("/openid/v1/jwks", f"Bearer {own}")


def test_a_pod_without_an_account_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this is no pod of Kubernetes"):
        in_cluster({}, str(tmp_path))
    environ = {"KUBERNETES_SERVICE_HOST": "::1"}
    with pytest.raises(ConfigError, match="needs its service account's token"):
        in_cluster(environ, str(tmp_path))
    (tmp_path / "token").write_text("no token")
    with pytest.raises(ConfigError, match="holds no token that says who has issued it"):
        in_cluster(environ, str(tmp_path))


def test_keys_of_a_document_are_compared_by_it(issuer: Issuer) -> None:
    one, two = keys_of(issuer.document, "a"), keys_of(issuer.document, "b")
    assert one.digest == two.digest
    more = json.dumps({"keys": [jwk_of(new_key(), "x")]}).encode()
    assert keys_of(more, "a").digest != one.digest


async def test_strangers_of_many_hosts_are_bounded_together(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymicro.identity.bearer_tokens.MOST_FAILURES_OF_ALL", 20)
    clock = [1.0]
    async with BearerTokens([bearer_jwt(ISSUER, AUDIENCE, str(issuer.path))], lambda: clock[0]) as tokens:
        for number in range(30):
            await tokens.ask(issuer.token(aud=f"a{number}"), f"host-{number}")
        assert tokens.checks == 20
        found = await tokens.ask(issuer.token(), "friend")
        assert isinstance(found, Rejected)
        assert found.busy
        clock[0] += 1
        assert isinstance(await tokens.ask(issuer.token(), "friend"), Proven)


async def test_a_node_that_has_no_keys_yet_costs_no_call(
    key_server: KeyServer, issuer: Issuer, authority: Authority, tmp_path: Path
) -> None:
    """It says that nothing has run, so its callers try another node."""
    registry, path = MemoryRegistry(), tmp_path / "token"
    without, one = service(registry, accepted(key_server), **secured(authority))
    well, two = service(registry, bearer_jwt(ISSUER, AUDIENCE, str(issuer.path)), **secured(authority))
    async with without, well, calling(registry, authority, bearer_token(path)) as client:
        channel = client.channel("greeter")
        channel.get_state(try_to_connect=True)
        await eventually(
            lambda: (
                sum(node.ready() for target in client.core.targets for node in target.channels.values()) == 2
            ),
            "both are connected",
        )
        stub = rpc.GreeterStub(channel)
        for number in range(20):
            write(path, issuer.token(sub=f"caller-{number}"))
            await stub.SayHello(pb.HelloRequest(name="Ada"), timeout=10)
        recorder = without.client.recorder
        assert recorder is not None
        assert recorder.server.refused["full"] > 0
    assert (len(one.seen), len(two.seen)) == (0, 20)
