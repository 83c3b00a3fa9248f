"""gRPC's interop cases between pymicro and grpc-go, each with a certificate that the other one asks for.

Run by `make test-peers`, which builds grpc-go's programs.
"""

from __future__ import annotations

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trustme

from pymicro import Client, Unavailable
from tests.certificates import Folder, pem_of
from tests.interop.cases import CASES
from tests.interop.test_grpc_go import program
from tests.processes import ROOT, Process, Processes
from tests.tls.ends import Authority

pytestmark = pytest.mark.peers

TRANSPORTS = ["grpc", *(["fast"] if find_spec("pymicro_fast") else [])]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "certificates"
    folder.mkdir()
    return Authority(folder)


def paths(folder: Folder) -> list[str]:
    """Certificate, key and authority, as both programs take them."""
    return [str(folder.path / name) for name in ("tls.crt", "tls.key", "ca.crt")]


@pytest.fixture(params=TRANSPORTS)
def service(request: pytest.FixtureRequest, processes: Processes, authority: Authority) -> Process:
    """TestService on pymicro."""
    return processes.pymicro(
        "run",
        "tests/interop/service.py",
        "--tls-dir",
        str(authority.folder("interop").path),
        PYTHONPATH=str(ROOT),
        MICRO_TRANSPORT=request.param,
    )


@pytest.fixture
def address(service: Process) -> str:
    return service.wait_for(r"interop.*?(127\.0\.0\.1:\d+) \(TLS\)")[1]


@pytest.fixture
def grpc_go(processes: Processes, authority: Authority) -> Process:
    """grpc-go's interop server."""
    return processes.start(program("server"), *paths(authority.folder("interop")))


def calls(address: str, own: Folder, *cases: str, name: str = "interop") -> subprocess.CompletedProcess[str]:
    """What grpc-go's client does over one connection."""
    return subprocess.run(
        [program("caller"), address, name, *paths(own), *cases],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_grpc_go_calls_pymicro(address: str, authority: Authority) -> None:
    done = calls(address, authority.folder("cart"), *CASES)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(CASES)


def of_another_authority(own: Folder, authority: Authority) -> None:
    own.issue(trustme.CA(), "cart", believe=pem_of(authority.ca))


def expired(own: Folder, authority: Authority) -> None:
    own.issue(authority.ca, "cart", days=-0.5)


def not_yet_valid(own: Folder, authority: Authority) -> None:
    own.issue(authority.ca, "cart", since=-1)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (of_another_authority, "its certificate comes from no authority of tls_ca"),
        (expired, "its certificate has expired"),
        (not_yet_valid, r"its certificate is not valid yet \(are the clocks right\?\)"),
    ],
)
def test_pymicro_serves_no_such_caller(
    service: Process,
    address: str,
    authority: Authority,
    spoil: Any,
    sentence: str,
    request: pytest.FixtureRequest,
) -> None:
    own = authority.folder("cart")
    spoil(own, authority)
    done = calls(address, own, "empty_unary")
    assert done.returncode != 0
    # grpc-go shows what it has, whatever its dates, and is left.
    assert re.search(r"Unavailable.*(bad certificate|unknown|expired|reset|EOF|broken pipe)", done.stderr), (
        done.stderr
    )
    if over_fast(request):
        service.wait_for(rf"a caller at 127\.0\.0\.1:\d+ was not taken: {sentence}")


def over_fast(request: pytest.FixtureRequest) -> bool:
    """Whether the service can know how handshakes end."""
    return bool(request.node.callspec.params["service"] == "fast")


def test_grpc_go_calls_nobody_whose_name_is_another(
    service: Process, address: str, authority: Authority, request: pytest.FixtureRequest
) -> None:
    done = calls(address, authority.folder("cart"), "empty_unary", name="somebody")
    assert done.returncode != 0
    assert "certificate is valid for interop, not somebody" in done.stderr
    if over_fast(request):
        service.wait_for("was not taken: it did not accept this process's certificate")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_pymicro_calls_grpc_go(grpc_go: Process, authority: Authority, transport: str) -> None:
    address = grpc_go.wait_for(r"^(127\.0\.0\.1:\d+)$")[1]
    for case in CASES.values():
        async with client(address, transport, authority.folder("cart")) as opened:
            await case(opened.channel("interop"))


def client(address: str, transport: str, own: Folder, **settings: Any) -> Client:
    return Client(
        environ={},
        registry="static",
        registry_address=f"interop={address}",
        client_tls="require",
        transport=transport,
        **{**own.settings, **settings},
    )


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        ("no certificate", "perhaps it asks for a certificate, and this process has none"),
        ("another authority", "perhaps it does not believe this process's certificate"),
        ("another name", r"the node's certificate is not for the name 'somebody' \(tls_server_name\)"),
        ("another authority of the node", "the node's certificate comes from no authority of tls_ca"),
    ],
)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_one_sentence_says_why_grpc_go_cannot_be_called(
    grpc_go: Process, authority: Authority, transport: str, spoil: str, sentence: str
) -> None:
    address = grpc_go.wait_for(r"^(127\.0\.0\.1:\d+)$")[1]
    own, stranger = authority.folder("cart"), trustme.CA()
    settings: dict[str, Any] = {"client_first_wait": 0}
    if spoil == "no certificate":
        settings |= {"tls_dir": "", "tls_ca": authority.ca_file()}
    elif spoil == "another authority":
        own.issue(stranger, "cart", believe=pem_of(authority.ca) + pem_of(stranger))
    elif spoil == "another name":
        settings["tls_server_name"] = "somebody"
    else:
        own.issue(stranger, "cart")
    async with client(address, transport, own, **settings) as opened:
        with pytest.raises(Unavailable, match=sentence):
            await CASES["empty_unary"](opened.channel("interop"))
