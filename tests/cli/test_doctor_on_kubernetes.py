"""`pymicro doctor` on Kubernetes: broken states, each with its cause and what to do, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cli.test_doctor_command import dead_port, greeter
from tests.cli_support import Commands
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.pods import pod
from tests.kubernetes.api.logins import write

LABELS = {
    "app.kubernetes.io/name": "greeter",
    "micro.mu/type": "service",
    "micro.mu/selector-greeter": "service",
}


class Cluster:
    """An API server, and the doctor asked about the greeter in it."""

    def __init__(self, api: FakeKubeApi, pymicro: Commands) -> None:
        self.api = api
        self.pymicro = pymicro

    def pod(self, port: int = 8080, **changes: Any) -> None:
        given: dict[str, Any] = {"ip": "127.0.0.1", "labels": LABELS, "ports": {"grpc": port}, **changes}
        self.api.create(pod(**given))

    async def problems(self) -> str:
        """What it says is wrong, with what to do."""
        result = await self.pymicro(
            "doctor", "greeter", "--registry=kubernetes", f"--registry-address={self.api.url}"
        )
        assert result.err == ""
        assert result.code == 1, result.out
        *lines, verdict = result.out.splitlines()
        assert verdict.endswith(("1 problem", "problems"))
        return "\n".join(line for line in lines if not line.startswith(("ok ", "note ")))


async def test_all_is_well_with_a_ready_pod_that_serves(pymicro: Commands) -> None:
    async with FakeKubeApi() as api, greeter() as port:
        Cluster(api, pymicro).pod(port)
        result = await pymicro("doctor", "greeter", "--registry=kubernetes", f"--registry-address={api.url}")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1] == "all is well"
    assert "problem" not in result.out
    assert "SERVING" in result.out


async def test_missing_rights_are_named_with_the_rule_that_gives_them(pymicro: Commands) -> None:
    async with FakeKubeApi() as api:
        cluster = Cluster(api, pymicro)
        cluster.pod()
        api.forbid("list")
        api.forbid("watch")
        said = await cluster.problems()
    assert "may not list pods in namespace default" in said
    assert "may not watch pods in namespace default" in said
    assert 'resources: ["pods"]' in said
    assert 'verbs: ["watch"]' in said


async def test_a_missing_label_is_named(pymicro: Commands) -> None:
    async with FakeKubeApi() as api:
        cluster = Cluster(api, pymicro)
        cluster.pod(labels={"app.kubernetes.io/name": "greeter"})
        said = await cluster.problems()
    assert "pod greeter-1" in said
    assert "lacks micro.mu/selector-greeter: service" in said


async def test_a_pod_that_is_not_ready_is_named(pymicro: Commands) -> None:
    async with FakeKubeApi() as api:
        cluster = Cluster(api, pymicro)
        cluster.pod(ready=False)
        said = await cluster.problems()
    assert "pod greeter-1" in said
    assert "not ready" in said.lower()


async def test_a_port_of_another_name_is_named(pymicro: Commands) -> None:
    async with FakeKubeApi() as api:
        cluster = Cluster(api, pymicro)
        cluster.pod(ports={"http": 8080})
        said = await cluster.problems()
    assert "no port of its containers is named grpc" in said
    assert "- name: grpc" in said


async def test_a_hostile_annotation_is_named_and_steers_nothing(pymicro: Commands) -> None:
    async with FakeKubeApi() as api:
        cluster = Cluster(api, pymicro)
        cluster.pod(annotations={"micro.mu/service-greeter": '{"name": "greeter", "nodes": [\x1b[2J'})
        said = await cluster.problems()
    assert "annotation micro.mu/service-greeter" in said
    assert "\x1b" not in said


async def test_a_dead_process_behind_a_ready_pod_is_named(pymicro: Commands) -> None:
    port = dead_port()
    async with FakeKubeApi() as api:
        cluster = Cluster(api, pymicro)
        cluster.pod(port)
        said = await cluster.problems()
    assert f"node 127.0.0.1:{port}" in said
    assert "connection refused: nothing listens there" in said


async def test_an_api_server_that_is_away_is_named_and_waited_for_no_longer_than_needed(
    pymicro: Commands,
) -> None:
    async with FakeKubeApi() as api:
        cluster = Cluster(api, pymicro)
    said = await cluster.problems()
    assert api.url in said
    assert "API server" in said


async def test_the_log_is_there_for_those_who_ask_for_it(pymicro: Commands) -> None:
    async with FakeKubeApi() as api:
        api.forbid("watch")
        result = await pymicro(
            "doctor",
            "greeter",
            "--registry=kubernetes",
            f"--registry-address={api.url}",
            "--log-level=error",
        )
    assert result.code == 1
    assert "may not watch pods" in result.err


async def test_what_a_credential_plug_in_says_is_shown_and_no_network_policy_suspected(
    pymicro: Commands, tmp_path: Path
) -> None:
    section = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "/bin/sh",
        "args": ["-c", "echo open https://id.example to sign in >&2; exit 3"],
        "interactiveMode": "IfAvailable",
    }
    path = write(tmp_path, cluster={"server": "https://127.0.0.1:1"}, user={"exec": section})
    result = await pymicro(
        "doctor", "greeter", "--registry=kubernetes", f"--registry-address=kubeconfig={path}"
    )
    assert result.code == 1
    assert "the credential plug-in '/bin/sh' says: open https://id.example to sign in" in result.err
    said = " ".join(result.out.split())
    assert "problem credentials the kubeconfig's credential plug-in '/bin/sh': it exited with 3" in said
    assert "NetworkPolicy" not in said
