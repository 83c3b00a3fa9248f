"""kubectl and pymicro get the same kubeconfigs, and ask a server and a proxy the same, to the byte."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from pymicro.base.errors import ConfigError
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.errors import KubeError
from tests.cluster.kubeconfigs import SHAPES, Pems, World
from tests.cluster.plane import assets
from tests.cluster.recorder import Seen, recording
from tests.kubernetes.api.certificates import plain_certificates

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Otherwise:
    """What pymicro does on purpose where kubectl does something else: it asks, or it refuses to."""

    reason: str
    asks: bool


PROMPT = Otherwise("kubectl asks a person for a name and a password", asks=True)
EXCEPTIONS = {
    "nobody": PROMPT,
    "a_context_without_a_user": PROMPT,
    "a_user_that_is_null": PROMPT,
    "a_password_without_a_name": PROMPT,
    "a_netrc_and_nobody": PROMPT,
    "capitals_in_keys": PROMPT,
    "a_name_in_capitals": Otherwise(
        "aiohttp writes names in small letters, and they mean the same", asks=True
    ),
    "a_token_over_loopback": Otherwise("nobody reads what stays on this machine", asks=True),
    "a_server_without_a_scheme": Otherwise("kubectl guesses it, and asks in plain HTTP", asks=False),
    "a_server_with_a_password": Otherwise("it would stand in all messages about the server", asks=False),
    "a_redirect_to_another_server": Otherwise("kubectl follows, with its token in its hand", asks=True),
    "a_default_port_through_a_proxy": Otherwise(
        "aiohttp leaves :443 out of the Host header of a CONNECT; the request line has it", asks=True
    ),
    "a_plug_in_whose_token_has_run_out": Otherwise("a plug-in has ten seconds between two runs", asks=True),
}


@dataclass
class Outcome:
    """What one of them did with a kubeconfig.

    Attributes:
        worked: Whether it got its answer.
        seen: What the server and the proxy were asked.
        plugins: What its credential plug-ins were told: KUBERNETES_EXEC_INFO, arguments, a variable.
        said: What it complained of; not compared.
    """

    worked: bool
    seen: list[Seen]
    plugins: list[Any]
    said: str = field(compare=False)


@dataclass(frozen=True)
class Side:
    """What the server shows and checks, and what goes into kubeconfigs."""

    contexts: Mapping[str, ssl.SSLContext]
    pems: Pems


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Side:
    root, far = trustme.CA(), trustme.CA()
    middle = far.create_child_ca()
    ada = root.issue_cert(common_name="ada")

    def asking() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # It asks for a client's certificate, and takes none, too, as an API server does.
        root.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    contexts = {by: asking() for by in ("tls", "tls proxy", "tls plain", "tls name", "tls middle")}
    for by in ("tls", "tls proxy"):
        root.issue_cert("127.0.0.1", "kubernetes.default.svc").configure_cert(contexts[by])
    middle.issue_cert("127.0.0.1").configure_cert(contexts["tls middle"])
    plain, chain, named = plain_certificates()
    for by, pem in (("tls plain", chain), ("tls name", named)):
        path = tmp_path_factory.mktemp("server") / "chain"
        path.write_text(pem)
        contexts[by].load_cert_chain(path)
    return Side(
        contexts,
        Pems(
            ca=root.cert_pem.bytes().decode(),
            ada="".join(blob.bytes().decode() for blob in ada.cert_chain_pems),
            ada_key=ada.private_key_pem.bytes().decode(),
            other_key=root.issue_cert(common_name="other").private_key_pem.bytes().decode(),
            stranger=far.cert_pem.bytes().decode(),
            plain=plain,
            middle=middle.cert_pem.bytes().decode(),
        ),
    )


def told(folder: Path) -> list[Any]:
    """What plug-ins wrote down since the last time."""
    found: list[Any] = []
    for path in sorted(folder.rglob("*.asked")):
        found += [json.loads(line) for line in path.read_text().splitlines() if line]
        path.unlink()
    for path in sorted(folder.rglob("*.called")):
        found += path.read_text().splitlines()
        path.unlink()
    return found


async def kubectl(environ: Mapping[str, str]) -> tuple[bool, str]:
    program = assets() / "kubectl"
    # `get --raw` leaves out the path in a server's URL.
    process = await asyncio.create_subprocess_exec(
        *(program, "version", "-o", "json"),
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode == 0, said.decode()


async def pymicro(environ: Mapping[str, str]) -> tuple[bool, str]:
    try:
        async with KubeClient(lambda: find_cluster((), environ)) as client:
            return True, str(await client.request("GET", "/version"))
    except (ConfigError, KubeError) as exc:
        return False, str(exc)


@pytest.mark.parametrize("name", SHAPES)
async def test_pymicro_asks_what_kubectl_asks(name: str, tmp_path: Path, side: Side) -> None:
    async with recording(side.contexts) as recorder:
        world = World(tmp_path, recorder, side.pems)
        environ = {
            "HOME": str(tmp_path),
            "PATH": f"{world.bin}:{os.environ['PATH']}",
            "KUBECACHEDIR": str(tmp_path / "cache"),
            **SHAPES[name](world),
        }
        outcomes = []
        for ask in (kubectl, pymicro):
            worked, said = await ask(environ)
            outcomes.append(Outcome(worked, recorder.take(), told(tmp_path), said))
    theirs, ours = outcomes
    print(f"kubectl: {theirs}\npymicro: {ours}")
    if (otherwise := EXCEPTIONS.get(name)) is None:
        assert ours == theirs
    else:
        assert ours != theirs, "no exception any more"
        assert bool(ours.seen) == otherwise.asks
        assert not any("Basic" in line for seen in ours.seen for line in seen.head)
    assert "secret" not in ours.said


def test_the_exceptions_are_about_shapes() -> None:
    assert EXCEPTIONS.keys() <= SHAPES.keys()
