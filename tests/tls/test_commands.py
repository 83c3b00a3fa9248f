"""The command line against nodes that speak TLS."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.certificates import Folder, pem_of
from tests.cli_support import Commands
from tests.processes import ROOT, Processes
from tests.tls.ends import Authority


@pytest.fixture
def pymicro(registry_folder: str, tmp_path: Path) -> Commands:
    return Commands(registry_folder, tmp_path)


@pytest.fixture
def server(processes: Processes, authority: Authority) -> Folder:
    folder = authority.folder("greeter")
    running = processes.pymicro("run", "examples/greeter/server.py", "--tls-dir", str(folder.path), cwd=ROOT)
    running.wait_for(r"greeter .* on 127\.0\.0\.1:\d+ \(TLS\), registered")
    return folder


async def test_commands_call_nodes_over_tls(pymicro: Commands, server: Folder, authority: Authority) -> None:
    env = {"MICRO_TLS_DIR": str(authority.folder("operator").path), "MICRO_CLIENT_TLS": "require"}
    called = await pymicro("call", "greeter", "Greeter.SayHello", '{"name": "Ada"}', **env)
    assert (called.code, json.loads(called.out)["message"][:9]) == (0, "Hello Ada"), called.err
    health = await pymicro("health", "greeter", **env)
    assert (health.code, "SERVING" in health.out) == (0, True), health.err
    listed = await pymicro("describe", "greeter", **env)
    assert (listed.code, "SayHello" in listed.out) == (0, True), listed.err
    doctor = await pymicro("doctor", "greeter", "-o", "json", **env)
    assert doctor.code == 0, doctor.out
    told = {one["check"].partition(" ")[0]: one for one in json.loads(doctor.out)["findings"]}
    assert told["certificates"]["text"].startswith("operator, valid until 20")
    assert ", TLS" in told["node"]["text"]
    top = await pymicro("top", "greeter", "--count", "1", "-o", "json", **env)
    assert top.code == 0, top.err


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ((), "it speaks TLS, and its certificate cannot be checked here: set tls_ca, or tls_dir"),
        (("ca",), "perhaps it asks for a certificate, and this process has none"),
    ],
)
async def test_they_say_which_setting_is_missing(
    pymicro: Commands, server: Folder, authority: Authority, names: tuple[str, ...], sentence: str
) -> None:
    env = {"MICRO_TLS_CA": authority.ca_file()} if names else {}
    for command in (
        ("call", "greeter", "Greeter.SayHello", '{"name": "Ada"}'),
        ("health", "greeter"),
        ("doctor", "greeter"),
    ):
        result = await pymicro(*command, **env)
        assert result.code in (1, 64 + 14), result
        assert sentence in (result.out + result.err).replace("\n", " "), result


async def test_the_doctor_looks_at_the_own_certificate_first(
    pymicro: Commands, authority: Authority, tmp_path: Path
) -> None:
    old = authority.folder("old", days=-0.5)
    result = await pymicro("doctor", "--tls-dir", str(old.path))
    assert result.code == 1
    assert "has expired: it was valid until" in result.out
    soon = authority.folder("soon", days=0.01)
    result = await pymicro("doctor", "--tls-dir", str(soon.path))
    assert (result.code, "expires soon" in result.out) == (0, True), result
    only = tmp_path / "ca.pem"
    only.write_bytes(pem_of(authority.ca))
    result = await pymicro("doctor", "--tls-ca", str(only))
    assert (result.code, "authorities only" in result.out) == (0, True), result
