"""grpcurl and grpc-js over TLS, clients by others in other languages, against a service with certificates.

Run by `make test-peers`, which gets them. grpc-go is in tests/interop/test_grpc_go_tls.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import trustme

from tests.certificates import Folder, pem_of
from tests.peers.test_grpc_js import call
from tests.processes import Processes
from tests.tls.ends import Authority

pytestmark = pytest.mark.peers


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "certificates"
    folder.mkdir()
    return Authority(folder)


@pytest.fixture(params=["grpc", "fast"])
def greeter(request: pytest.FixtureRequest, processes: Processes, authority: Authority) -> str:
    """The address of a running greeter, which `cart` may call."""
    if request.param == "fast":
        pytest.importorskip("pymicro_fast")
    server = processes.pymicro(
        "run",
        "examples/greeter/server.py",
        "--tls-dir",
        str(authority.folder("greeter").path),
        "--allow=cart",
        f"--transport={request.param}",
    )
    return server.wait_for(r"greeter.*?(127\.0\.0\.1:\d+) \(TLS\)")[1]


def grpcurl(authority: Authority, own: Folder | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it with a certificate; a missing grpcurl is a failure, not a skipped test."""
    shown = ["-cert", str(own.path / "tls.crt"), "-key", str(own.path / "tls.key")] if own else []
    return subprocess.run(
        [
            os.environ.get("GRPCURL", "grpcurl"),
            *(
                "-cacert",
                authority.ca_file(),
                "-authority",
                "greeter",
                "-connect-timeout",
                "5",
                "-max-time",
                "20",
            ),
            *shown,
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_grpcurl_calls_with_a_certificate(greeter: str, authority: Authority) -> None:
    done = grpcurl(
        authority, authority.folder("cart"), "-d", '{"name": "Ada"}', greeter, "greeter.v1.Greeter/SayHello"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["message"].startswith("Hello Ada")


def test_one_that_may_not_call_is_told_so(greeter: str, authority: Authority) -> None:
    thief = authority.folder("thief")
    done = grpcurl(authority, thief, greeter, "list")
    assert done.returncode != 0
    assert "thief may not call grpc.reflection" in done.stderr


def test_without_a_certificate_there_is_no_connection(greeter: str, authority: Authority) -> None:
    done = grpcurl(authority, None, greeter, "list")
    assert done.returncode != 0
    assert "Failed to dial target host" in done.stderr, done.stderr


def spoilt(own: Folder, authority: Authority, how: str) -> Folder:
    """The caller's certificate, with something wrong with it."""
    if how == "another authority":
        own.issue(trustme.CA(), "cart", believe=pem_of(authority.ca))
    elif how == "expired":
        own.issue(authority.ca, "cart", days=-0.5)
    else:
        own.issue(authority.ca, "cart", since=-1)
    return own


@pytest.mark.parametrize("how", ["another authority", "expired", "not yet valid"])
def test_neither_with_one_that_is_not_believed(greeter: str, authority: Authority, how: str) -> None:
    done = grpcurl(authority, spoilt(authority.folder("cart"), authority, how), greeter, "list")
    assert done.returncode != 0
    assert "Failed to dial target host" in done.stderr, done.stderr


def javascript(own: Folder, authority: Authority, name: str = "greeter") -> dict[str, str]:
    """What the client in tests/peers/js needs for a connection."""
    paths = {key: str(own.path / file) for key, file in (("cert", "tls.crt"), ("key", "tls.key"))}
    return {**paths, "ca": authority.ca_file(), "name": name}


def test_grpc_js_calls_with_a_certificate(greeter: str, authority: Authority) -> None:
    tls = javascript(authority.folder("cart"), authority)
    unary = call(greeter, "SayHello", {"name": "Ada"}, tls=tls)
    assert (unary["code"], unary["responses"][0]["message"][:9]) == ("OK", "Hello Ada"), unary
    down = call(greeter, "CountDown", {"from": 3}, tls=tls)
    assert [response["number"] for response in down["responses"]] == [3, 2, 1]
    everybody = call(greeter, "GreetAll", {"name": "Ada"}, {"name": "Grace"}, tls=tls)
    assert everybody["code"] == "OK"
    chat = call(greeter, "Chat", {"text": "one"}, {"text": "two"}, tls=tls)
    assert [response["text"] for response in chat["responses"]] == ["You said: one", "You said: two"]


def test_grpc_js_is_told_that_it_may_not_call(greeter: str, authority: Authority) -> None:
    done = call(greeter, "SayHello", {}, tls=javascript(authority.folder("thief"), authority))
    assert (done["code"], done["details"]) == (
        "PERMISSION_DENIED",
        "thief may not call greeter.v1.Greeter/SayHello",
    )


def test_grpc_js_gets_no_connection_without_a_good_certificate(greeter: str, authority: Authority) -> None:
    """And makes none to a server of another name."""
    stranger = spoilt(authority.folder("cart"), authority, "another authority")
    done = call(greeter, "SayHello", {}, tls=javascript(stranger, authority), timeout=5000)
    assert done["code"] in ("UNAVAILABLE", "DEADLINE_EXCEEDED"), done
    other = javascript(authority.folder("cart"), authority, name="somebody")
    done = call(greeter, "SayHello", {}, tls=other, timeout=5000)
    assert done["code"] == "UNAVAILABLE"
    assert "altnames" in done["details"], done
