"""Certificates by smallstep's `step`, a program that issues them for others: which are taken, and which not.

Run by `make test-peers`, which builds it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as rpc
from pymicro import CallContext, Client, ConfigError, MemoryRegistry, PermissionDenied, Service, handler
from pymicro.identity import rereading
from tests.certificates import Folder
from tests.greeting import greeter
from tests.processes import Processes
from tests.serving.serving import eventually
from tests.tls.ends import pairings

pytestmark = pytest.mark.peers

ADA = pb.HelloRequest(name="Ada")
CART = "spiffe://cluster.local/ns/shop/sa/cart"

RSA = ("--kty=RSA", "--size=2048")
P256, P384, P521 = (("--kty=EC", f"--curve={curve}") for curve in ("P-256", "P-384", "P-521"))
ED25519 = ("--kty=OKP", "--curve=Ed25519")


class Issuer:
    """A root, and an authority below it that issues for services.

    Args:
        folder: For the files.
        kind: What keys the two have.
    """

    def __init__(self, folder: Path, *kind: str) -> None:
        self._folder = folder
        self.root, self.middle = folder / "root.crt", folder / "middle.crt"
        self.create("Root", "root", "--profile=root-ca", *kind)
        self.create("Middle", "middle", "--profile=intermediate-ca", *self._by("root"), *kind)

    def create(self, subject: str, name: str, *arguments: str) -> None:
        """`step certificate create`: NAME.crt and NAME.key."""
        step("certificate", "create", subject, f"{name}.crt", f"{name}.key", *arguments, cwd=self._folder)

    def _by(self, name: str) -> tuple[str, str]:
        return f"--ca={name}.crt", f"--ca-key={name}.key"

    def issue(
        self, folder: Folder, name: str, *arguments: str, by: str = "middle", believe: Path | None = None
    ) -> Folder:
        """Put a certificate for this name into a folder, with the authority that is believed there."""
        self.create(name, name, "--profile=leaf", *self._by(by), f"--san={name}", *arguments)
        cert, key = ((self._folder / f"{name}.{kind}").read_bytes() for kind in ("crt", "key"))
        folder.put(cert, key, (believe or self.root).read_bytes())
        return folder


def step(*arguments: str, cwd: Path) -> str:
    """Run it; a missing one is a failure, not a skipped test."""
    program = os.environ.get("STEP")
    assert program, "STEP is not set: run `make test-peers`"
    done = subprocess.run(
        [program, *arguments, "--no-password", "--insecure", "--force"],
        cwd=cwd,
        env={**os.environ, "STEPPATH": str(cwd / "step")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer"), *P256)


@pytest.fixture
def server(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "server")


@pytest.fixture
def caller(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "caller")


async def called(serving: str, calling: str, server: Folder, caller: Folder) -> None:
    """One call between both."""
    registry = MemoryRegistry()
    service, own = greeter(registry, transport=serving, **server.settings)
    opened = Client(registry=registry, environ={}, transport=calling, client_tls="require", **caller.settings)
    async with service, opened:
        reply = await rpc.GreeterStub(opened.channel("greeter")).SayHello(ADA, timeout=20)
        assert reply.message == "Hello Ada"
    assert own.served == 1


@pytest.mark.parametrize(("serving", "calling"), pairings())
@pytest.mark.parametrize("kind", [RSA, P256, P384], ids=["RSA", "P-256", "P-384"])
async def test_keys_of_these_kinds_are_taken_behind_an_intermediate(
    tmp_path: Path, server: Folder, caller: Folder, kind: tuple[str, ...], serving: str, calling: str
) -> None:
    issuer = Issuer(tmp_path, *kind)
    issuer.issue(server, "greeter", "--bundle", *kind)
    issuer.issue(caller, "cart", "--bundle", *kind)
    assert (server.path / "tls.crt").read_bytes().count(b"BEGIN CERTIFICATE") == 2
    await called(serving, calling, server, caller)


@pytest.mark.parametrize(("serving", "calling"), pairings())
async def test_the_authority_that_is_believed_need_not_be_the_root(
    issuer: Issuer, server: Folder, caller: Folder, serving: str, calling: str
) -> None:
    issuer.issue(server, "greeter", believe=issuer.middle)
    issuer.issue(caller, "cart", "--bundle", believe=issuer.middle)
    await called(serving, calling, server, caller)


@pytest.mark.parametrize(("serving", "calling"), pairings())
async def test_a_spiffe_id_by_step_is_who_calls(
    issuer: Issuer, server: Folder, caller: Folder, serving: str, calling: str
) -> None:
    seen: list[str] = []

    class Greeter:
        @handler(allow=["spiffe://cluster.local/ns/shop/sa/*"])
        async def say_hello(self, request: pb.HelloRequest, context: CallContext) -> pb.HelloReply:
            assert context.caller is not None
            seen.append(context.caller.spiffe_id)
            return pb.HelloReply()

    issuer.issue(server, "greeter", "--bundle")
    issuer.issue(caller, "cart", "--bundle", f"--san={CART}")
    registry = MemoryRegistry()
    service = Service("greeter", registry=registry, transport=serving, **server.settings)
    service.add(Greeter(), pb, partial=True)
    given = {"registry": registry, "environ": {}, "transport": calling}
    async with service:
        async with Client(**given, **caller.settings) as client:
            await rpc.GreeterStub(client.channel("greeter")).SayHello(ADA, timeout=20)
        issuer.issue(caller, "thief", "--bundle", "--san=spiffe://cluster.local/ns/other/sa/thief")
        async with Client(**given, **caller.settings) as client:
            with pytest.raises(PermissionDenied, match=r"spiffe://cluster\.local/ns/other/sa/thief may not"):
                await rpc.GreeterStub(client.channel("greeter")).SayHello(ADA, timeout=20)
    assert seen == [CART]


@pytest.mark.parametrize("transport", ["grpc", "fast"])
async def test_a_newer_one_with_a_key_of_another_kind_is_shown_without_a_restart(
    issuer: Issuer, server: Folder, caller: Folder, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if transport == "fast":
        pytest.importorskip("pymicro_fast")
    monkeypatch.setattr(rereading, "PERIOD", 0.02)
    issuer.issue(server, "greeter", "--bundle", *P256)
    issuer.issue(caller, "cart", "--bundle")
    registry = MemoryRegistry()
    given = {"registry": registry, "transport": transport}
    service, own = greeter(**given, **server.settings)
    async with service:
        keeper = service.client.identity
        assert keeper is not None
        for taken, kind in enumerate([P256, RSA, P384], 1):
            issuer.issue(server, "greeter", "--bundle", *kind)
            await eventually(lambda taken=taken: keeper.taken > taken, "it is taken")
            async with Client(**given, environ={}, client_tls="require", **caller.settings) as client:
                await rpc.GreeterStub(client.channel("greeter")).SayHello(ADA, timeout=20)
        assert keeper.refused == 0
    assert own.served == 3


def ed25519(issuer: Issuer, folder: Folder) -> None:
    issuer.issue(folder, "greeter", "--bundle", *ED25519)


def p521(issuer: Issuer, folder: Folder) -> None:
    issuer.issue(folder, "greeter", "--bundle", *P521)


def rsa_1024(issuer: Issuer, folder: Folder) -> None:
    issuer.issue(folder, "greeter", "--bundle", "--kty=RSA", "--size=1024")


def without_its_intermediate(issuer: Issuer, folder: Folder) -> None:
    issuer.issue(folder, "greeter")


def expired(issuer: Issuer, folder: Folder) -> None:
    issuer.issue(folder, "greeter", "--bundle", "--not-before=-2h", "--not-after=-1h")


def not_yet_valid(issuer: Issuer, folder: Folder) -> None:
    issuer.issue(folder, "greeter", "--bundle", "--not-before=1h", "--not-after=2h")


def self_signed(issuer: Issuer, folder: Folder) -> None:
    issuer.create("greeter", "alone", "--profile=self-signed", "--subtle")
    at = issuer.root.parent
    folder.put((at / "alone.crt").read_bytes(), (at / "alone.key").read_bytes(), issuer.root.read_bytes())


def key_of_another(issuer: Issuer, folder: Folder) -> None:
    issuer.issue(folder, "other")
    key = (folder.path / "tls.key").read_bytes()
    issuer.issue(folder, "greeter", "--bundle")
    folder.put((folder.path / "tls.crt").read_bytes(), key, issuer.root.read_bytes())


WHEN = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC"
KIND = r"the key in \S+tls.key is of a kind that gRPC's TLS does not take: use RSA, or ECDSA P-256 or P-384"
REFUSED: list[tuple[Callable[[Issuer, Folder], None], str]] = [
    (ed25519, KIND),
    (p521, KIND),
    (rsa_1024, r"the key in \S+tls.key has 1024 bits: RSA wants 2048 at least"),
    (
        without_its_intermediate,
        r"tls.crt \(greeter\) comes from CN=Middle, which is no authority of \S+ca.crt",
    ),
    (expired, rf"tls.crt \(greeter\) has expired: it was valid until {WHEN}"),
    (not_yet_valid, rf"tls.crt \(greeter\) is not valid before {WHEN} \(is the clock here right\?\)"),
    (self_signed, r"tls.crt \(greeter\) has signed itself, and is no authority of \S+ca.crt"),
    (key_of_another, r"the key in \S+tls.key does not belong to the certificate in \S+tls.crt \(greeter\)"),
]


@pytest.mark.parametrize(("spoil", "sentence"), REFUSED, ids=[case.__name__ for case, _ in REFUSED])
async def test_these_are_refused_at_the_start_in_one_sentence(
    issuer: Issuer, server: Folder, spoil: Callable[[Issuer, Folder], None], sentence: str
) -> None:
    spoil(issuer, server)
    for end in (greeter(**server.settings)[0], Client(registry="memory", environ={}, **server.settings)):
        with pytest.raises(ConfigError, match=sentence) as caught:
            async with end:
                pass
        assert "\n" not in str(caught.value)


def test_a_program_says_so_in_one_line_and_ends_with_2(
    issuer: Issuer, server: Folder, processes: Processes
) -> None:
    ed25519(issuer, server)
    process = processes.pymicro("run", "examples/greeter/server.py", "--tls-dir", str(server.path))
    assert process.wait() == 2
    errors = "\n".join(process.stderr)
    assert "use RSA, or ECDSA P-256 or P-384" in errors
    assert "Traceback" not in errors
