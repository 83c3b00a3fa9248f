"""`pymicro manifest`: what it prints, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pymicro.base.errors import ConfigError
from pymicro.cli.manifests import Deployed, render
from pymicro.cli.manifests_tls import CertificateSource
from pymicro.nodes.keys import selector_key
from pymicro.settings.config import load
from tests.cli_support import Commands, Result

pytestmark = pytest.mark.once  # a minute of text, the same on every Python

Documents = dict[tuple[str, str], dict[str, Any]]


def documents(text: str) -> Documents:
    found = [document for document in yaml.safe_load_all(text) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in found}


def pod(found: Documents, name: str = "greeter") -> dict[str, Any]:
    template = found["Deployment", name]["spec"]["template"]
    assert isinstance(template, dict)
    return template


def container(found: Documents, name: str = "greeter") -> dict[str, Any]:
    (only,) = pod(found, name)["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def environment(found: Documents, name: str = "greeter") -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container(found, name)["env"]}


def deployed(**changes: Any) -> Documents:
    plan: dict[str, Any] = {"service": "greeter", "version": "1.0.0", "target": "server.py", **changes}
    return documents(render(Deployed(**plan)))


class Printed:
    """The command on a file with this code."""

    def __init__(self, pymicro: Commands) -> None:
        self.pymicro = pymicro

    async def run(self, code: str, *argv: str, **env: str) -> Result:
        (self.pymicro.cwd / "server.py").write_text(f"from pymicro import Service\n{code}\n")
        return await self.pymicro("manifest", "server.py", *argv, **env)

    async def __call__(self, code: str, *argv: str, **env: str) -> Documents:
        result = await self.run(code, *argv, **env)
        assert result.code == 0, result.err
        return documents(result.out)


@pytest.fixture
def printed(pymicro: Commands) -> Printed:
    return Printed(pymicro)


async def test_name_and_version_come_from_the_code_and_become_labels(printed: Printed) -> None:
    found = await printed("service = Service('greeter', version='2.1')")
    labels = {
        "app.kubernetes.io/name": "greeter",
        "app.kubernetes.io/version": "2.1",  # a string, though it looks like a number
        "micro.mu/type": "service",
        "micro.mu/selector-greeter": "service",
    }
    assert pod(found)["metadata"]["labels"] == labels
    assert found["Deployment", "greeter"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert container(found)["image"] == "greeter:2.1"
    assert container(found)["command"] == ["python", "-m", "pymicro", "run", "server.py"]
    assert environment(found)["MICRO_REGISTRY_ADVERTISE"] == "labels"
    assert "MICRO_SERVER_ADDRESS" not in environment(found)


async def test_options_go_where_they_belong(printed: Printed) -> None:
    found = await printed(
        "service = Service('greeter', version='1')",
        "--image=example.com/greeter@sha256:00ff",
        "--replicas=7",
        "--namespace=prod",
        "--port=9000",
    )
    assert {document["metadata"].get("namespace") for document in found.values()} == {"prod"}
    assert found["RoleBinding", "pymicro-discovery"]["subjects"][0]["namespace"] == "prod"
    assert found["Deployment", "greeter"]["spec"]["replicas"] == 7
    assert container(found)["image"] == "example.com/greeter@sha256:00ff"
    assert container(found)["ports"][0] == {"name": "grpc", "containerPort": 9000}
    assert environment(found)["MICRO_SERVER_ADDRESS"] == "0.0.0.0:9000"


@pytest.mark.parametrize(
    ("address", "port"),
    [(None, 9464), ("0.0.0.0:9000", 9000), (":9000", 9000), ("off", 0), ("127.0.0.1:9000", 0), ("[::]:0", 0)],
)
async def test_probes_ask_the_admin_port_and_health_where_there_is_none(
    printed: Printed, address: str | None, port: int
) -> None:
    found = await printed(f"service = Service('greeter', version='1', admin_address={address!r})")
    paths = {"startupProbe": "/startupz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    asked = {
        kind: {"httpGet": {"path": path, "port": port}}
        if port
        # A pod whose service says that it is not well is no pod to restart.
        else {"grpc": {"port": 8080, **({} if kind == "readinessProbe" else {"service": "liveness"})}}
        for kind, path in paths.items()
    }
    assert {kind: {**asked[kind], **container(found)[kind]} for kind in paths} == {
        kind: container(found)[kind] for kind in paths
    }
    names = {entry["name"]: entry["containerPort"] for entry in container(found)["ports"]}
    assert names == {"grpc": 8080, **({"admin": port} if port else {})}
    annotations = pod(found)["metadata"]["annotations"]
    assert annotations.get("micro.mu/metadata-admin-port") == (str(port) if port else None)


async def test_a_self_registering_service_gets_the_account_and_its_fence(printed: Printed) -> None:
    found = await printed("service = Service('greeter', version='1')", "--mode=patch", "--namespace=prod")
    labels = pod(found)["metadata"]["labels"]
    assert not [label for label in labels if label.startswith("micro.mu/")]
    assert pod(found)["metadata"]["annotations"] == {"micro.mu/self-register": "greeter"}
    assert environment(found)["MICRO_REGISTRY_ADVERTISE"] == "patch"
    for name in ("pymicro-self-register", "pymicro-unmarked-patch"):
        assert ("ValidatingAdmissionPolicyBinding", name) in found
        policy = found["ValidatingAdmissionPolicy", name]
        assert "namespace" not in policy["metadata"]  # there is one in a cluster
    assert found["Role", "pymicro-self-register"]["metadata"]["namespace"] == "prod"
    # An account of its own, so that no other service has its rights.
    assert pod(found)["spec"]["serviceAccountName"] == "greeter"
    assert found["ServiceAccount", "greeter"]["metadata"]["namespace"] == "prod"
    binding = found["RoleBinding", "greeter-self-register"]
    assert binding["metadata"]["namespace"] == "prod"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "greeter", "namespace": "prod"}]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", "10s"),
        ("options=[('grpc.http2.min_ping_interval_without_data_ms', 60000)]", "1m"),
        ("options=[('grpc.keepalive_permit_without_calls', 0)]", None),
        ("metadata={'keepalive': '30s'}", "30s"),
    ],
)
async def test_pods_say_how_often_they_may_be_pinged(printed: Printed, more: str, said: str | None) -> None:
    code = f"service = Service('greeter', version='1', {more})"
    annotations = pod(await printed(code))["metadata"].get("annotations", {})
    assert annotations.get("micro.mu/metadata-keepalive") == said
    # There it is in the record that the pod writes.
    annotations = pod(await printed(code, "--mode=patch"))["metadata"]["annotations"]
    assert "micro.mu/metadata-keepalive" not in annotations


async def test_pods_are_told_their_zone(printed: Printed) -> None:
    for mode in ("labels", "patch"):
        found = await printed("service = Service('greeter', version='1')", f"--mode={mode}")
        (entry,) = [entry for entry in container(found)["env"] if entry["name"] == "MICRO_ZONE"]
        path = "metadata.labels['topology.kubernetes.io/zone']"
        assert entry["valueFrom"] == {"fieldRef": {"fieldPath": path}}


async def test_a_service_that_calls_others_may_look_for_them(printed: Printed) -> None:
    code = "service = Service('greeter', version='1')"
    assert pod(await printed(code, "--calls"))["spec"]["serviceAccountName"] == "pymicro-client"
    spec = pod(await printed(code))["spec"]
    assert "serviceAccountName" not in spec
    assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [("", 30), ("stop_grace=60, drain_delay=1.5", 67), ("drain_delay=0, stop_grace=0", 5)],
)
async def test_a_pod_gets_the_time_that_its_stop_takes(printed: Printed, settings: str, seconds: int) -> None:
    found = await printed(f"service = Service('greeter', version='1', {settings})")
    assert pod(found)["spec"]["terminationGracePeriodSeconds"] == seconds


@pytest.mark.parametrize(
    ("address", "argv", "port", "told"),
    [
        ("0.0.0.0:9000", [], 9000, None),
        ("127.0.0.1:9000", [], 9000, "0.0.0.0:9000"),
        ("127.0.0.1:0", [], 8080, "0.0.0.0:8080"),
        ("0.0.0.0:9000", ["--port=8080"], 8080, "0.0.0.0:8080"),
        ("unix:/run/greeter", [], 8080, "0.0.0.0:8080"),
    ],
)
async def test_a_port_in_the_code_is_kept_and_listened_on_by_all_addresses(
    printed: Printed, address: str, argv: list[str], port: int, told: str | None
) -> None:
    found = await printed(f"service = Service('greeter', version='1', server_address={address!r})", *argv)
    assert container(found)["ports"][0]["containerPort"] == port
    assert environment(found).get("MICRO_SERVER_ADDRESS") == told


async def test_only_manifests_are_printed_and_the_environment_has_no_say(printed: Printed) -> None:
    result = await printed.run(
        "print('loading')\nservice = Service('greeter', version='1')",
        MICRO_SERVER_NAME="other",
        MICRO_STOP_GRACE="1h",
    )
    assert result.err == "loading\n"
    found = documents(result.out)
    assert pod(found)["spec"]["terminationGracePeriodSeconds"] == 30
    again = await printed.run("service = Service('greeter', version='1')")
    assert again.out == result.out


async def test_a_service_without_a_version_is_labelled_latest(printed: Printed) -> None:
    found = await printed("service = Service('greeter')")
    assert pod(found)["metadata"]["labels"]["app.kubernetes.io/version"] == "latest"


@pytest.mark.parametrize(
    ("code", "argv", "words"),
    [
        ("service = Service('greeter!')", [], "'greeter!' (as a label 'greeter_') does not end in a letter"),
        (f"service = Service('{'g' * 55}')", [], "has 55 bytes; as a pod's label it may have 54"),
        ("service = Service('g', version='1.0+7')", [], "version '1.0+7' cannot be a label"),
        ("service = Service('g', version='1')", ["--namespace=Prod"], "'Prod' is no namespace"),
        ("service = Service('g', version='1')", ["--port=0"], "'--port'"),
        ("service = Service('g', version='1')", ["--mode=both"], "'both' is not one of 'labels', 'patch'"),
        ("service = Service('g', stop_grace='soon')", [], "stop_grace= in code: 'soon' is no duration"),
        ("a, b = Service('a'), Service('b')", [], "server.py has 2 Services"),
        ("service = Service('g')", ["--tls=mesh"], "'mesh' is not one of 'cert-manager', "),
        ("service = Service('g')", ["--tls-from=ca"], "--tls-from belongs to --tls"),
        ("service = Service('g')", ["--plain-port=8080"], "--plain-port belongs to --tls"),
        (
            "service = Service('g')",
            ["--tls=secret", "--plain-port=8443"],
            "would speak TLS and plain text",
        ),
        ("service = Service('g')", ["--tls=secret", "--tls-from=A/b"], "the name of a Secret, and is 'A/b'"),
        ("service = Service('g')", ["--tls=cert-manager", "--tls-from=ca"], "wants --namespace"),
        (
            "service = Service('g')",
            ["--tls=cert-manager", "--namespace=prod"],
            "the name of an Issuer, or ClusterIssuer/NAME",
        ),
        (
            "service = Service('g')",
            ["--tls=cert-manager", "--namespace=prod", "--tls-from=Vault/ca"],
            "ClusterIssuer/NAME, and is 'Vault/ca'",
        ),
        (
            "service = Service('g')",
            ["--tls=podcertificate", "--tls-from=me"],
            "of a signer, such as",
        ),
        (
            "service = Service('g', tls_dir='/tls')",
            ["--tls=secret"],
            "its code sets tls_dir, and --tls",
        ),
        ("service = Service('g', admin_address='off')", ["--tls=secret"], "probes of health speak no TLS"),
    ],
)
async def test_what_kubernetes_would_not_take_is_one_message(
    printed: Printed, code: str, argv: list[str], words: str
) -> None:
    result = await printed.run(code, *argv)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("pymicro manifest: ")
    assert words in result.err


async def test_code_that_fails_is_shown_with_its_traceback(printed: Printed) -> None:
    result = await printed.run("raise RuntimeError('no database')")
    assert (result.code, result.out) == (1, "")
    assert 'server.py", line 2' in result.err
    assert "pymicro manifest: server.py failed while it was imported" in result.err


@pytest.mark.parametrize(
    ("target", "command"),
    [("app/server.py:api", "app/server.py:api"), ("./server.py", "server.py"), ("app.server", "app.server")],
)
async def test_the_target_is_what_it_was_here(pymicro: Commands, target: str, command: str) -> None:
    (pymicro.cwd / "app").mkdir()
    for folder in (pymicro.cwd, pymicro.cwd / "app"):
        (folder / "server.py").write_text("import pymicro\napi = pymicro.Service('greeter')")
    result = await pymicro("manifest", target)
    assert container(documents(result.out))["command"][-1] == command


async def test_of_an_absolute_path_the_file_is_left(pymicro: Commands, tmp_path: Path) -> None:
    path = tmp_path / "server.py"
    path.write_text("import pymicro\napi = pymicro.Service('greeter')")
    result = await pymicro("manifest", f"{path}:api")
    assert container(documents(result.out))["command"][-1] == "server.py:api"


@pytest.mark.parametrize(
    ("service", "app", "object_name"),
    [
        ("go.micro.srv.Greeter", "go.micro.srv.Greeter", "go-micro-srv-greeter"),
        ("null", "null", "null"),
        ("_x", "x", "x"),
        ("grüße", "gr____e", "gr-e"),
        ("1e3", "1e3", "1e3"),
    ],
)
def test_any_name_that_can_be_a_label_can_be_deployed(service: str, app: str, object_name: str) -> None:
    for mode in ("labels", "patch"):
        found = deployed(service=service, mode=mode)
        metadata = pod(found, object_name)["metadata"]
        assert metadata["labels"]["app.kubernetes.io/name"] == app
        if mode == "labels":
            assert metadata["labels"][selector_key(service)] == "service"
        else:
            # The policy must know the service whose label it is to allow.
            own = metadata["annotations"]["micro.mu/self-register"]
            assert f"micro.mu/selector-{own}" == selector_key(service)


@pytest.mark.parametrize("text", ["yes", "1.10", "a: b", "a #b", 'q"q', "é\x07\u2028", "x:", "-", "0x1F"])
def test_texts_stay_texts(text: str) -> None:
    found = deployed(image=text, target=text)
    assert container(found)["image"] == text
    assert container(found)["command"][-1] == text


@pytest.mark.parametrize("service", ["null", "1e3", "go.micro.srv.Greeter"])
def test_names_of_accounts_are_texts_whatever_the_services_name(service: str) -> None:
    found = deployed(service=service, mode="patch")
    (account,) = [
        name for kind, name in found if kind == "ServiceAccount" and not name.startswith("pymicro-")
    ]
    assert pod(found, account)["spec"]["serviceAccountName"] == account
    binding = found["RoleBinding", f"{account}-self-register"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account}]


def test_the_ports_of_the_calls_and_of_operators_are_all_that_can_be_reached() -> None:
    for changes in ({}, {"mode": "patch"}, {"replicas": 1}, {"port": 9000}, {"admin_port": 0}):
        policy = deployed(**changes)["NetworkPolicy", "greeter"]
        ports = [port for rule in policy["spec"]["ingress"] for port in rule["ports"]]
        names = ["grpc"] if "admin_port" in changes else ["grpc", "admin"]
        assert ports == [{"port": name, "protocol": "TCP"} for name in names]


def test_one_pod_needs_no_budget_of_disruptions() -> None:
    assert ("PodDisruptionBudget", "greeter") in deployed(replicas=2)
    # It would do nothing but keep a cluster node from being drained.
    assert ("PodDisruptionBudget", "greeter") not in deployed(replicas=1)


def test_a_wrong_version_is_refused_when_it_is_planned() -> None:
    with pytest.raises(ConfigError, match="cannot be a label"):
        deployed(version="")


@pytest.mark.parametrize("way", ["secret", "cert-manager", "podcertificate"])
@pytest.mark.parametrize("plain", [0, 8080])
async def test_with_certificates_each_probe_asks_the_admin_port_and_clients_find_what_speaks_tls(
    printed: Printed, way: str, plain: int
) -> None:
    source = {"secret": "own-tls", "cert-manager": "ClusterIssuer/ca", "podcertificate": "example.com/pods"}
    found = await printed(
        "service = Service('greeter', version='1')",
        "--namespace=prod",
        f"--tls={way}",
        f"--tls-from={source[way]}",
        *([f"--plain-port={plain}"] if plain else []),
    )
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(found)[probe]["httpGet"]["port"] == 9464
    ports = {entry["name"]: entry["containerPort"] for entry in container(found)["ports"]}
    assert ports == {"admin": 9464, **({"grpc": plain, "tls": 8443} if plain else {"grpc": 8443})}
    (calls, _) = found["NetworkPolicy", "greeter"]["spec"]["ingress"]
    assert {port["port"] for port in calls["ports"]} == ports.keys() - {"admin"}
    # The record that a node with these settings would write says the same.
    assert pod(found)["metadata"]["annotations"]["micro.mu/metadata-tls"] == ("8443" if plain else "on")
    settings = {name: text for name, text in environment(found).items() if text}
    config = load(environ=settings)
    assert config.server_address == "0.0.0.0:8443"
    assert config.tls_plain_address == ("0.0.0.0:8080" if plain else "")
    assert config.client_tls == ("auto" if plain else "require")
    assert bool(config.tls_bundle) == (way == "podcertificate")
    # Certificates name the account, so it is the service's own.
    assert pod(found)["spec"]["serviceAccountName"] == "greeter"
    assert ("ServiceAccount", "greeter") in found
    assert pod(found)["spec"]["automountServiceAccountToken"] is False


async def test_a_service_whose_code_names_its_certificates_is_announced_as_what_it_speaks(
    printed: Printed,
) -> None:
    """Its pods have no record of their own that would say so, and clients would speak plain text."""
    found = await printed("service = Service('greeter', version='1', tls_dir='/tls')")
    assert pod(found)["metadata"]["annotations"]["micro.mu/metadata-tls"] == "on"


def tls_volume(found: Documents) -> dict[str, Any]:
    """The volume that is mounted where the settings look for the files."""
    (mount,) = [one for one in container(found)["volumeMounts"] if one["name"] == "tls"]
    config = load(environ={name: text for name, text in environment(found).items() if text})
    for path in filter(None, (config.tls_dir, config.tls_bundle, config.tls_ca)):
        assert Path(path).is_relative_to(mount["mountPath"])
    assert "subPath" not in mount
    (volume,) = [one for one in pod(found)["spec"]["volumes"] if one["name"] == "tls"]
    return dict(volume)


def test_a_certificate_of_cert_managers_has_the_names_that_clients_and_rules_know() -> None:
    found = deployed(
        tls=CertificateSource(way="cert-manager", source="ClusterIssuer/ca"), port=8443, namespace="prod"
    )
    spec = found["Certificate", "greeter"]["spec"]
    assert tls_volume(found)["secret"] == {"secretName": spec["secretName"]} == {"secretName": "greeter-tls"}
    assert spec["issuerRef"] == {"group": "cert-manager.io", "kind": "ClusterIssuer", "name": "ca"}
    assert spec["dnsNames"] == ["greeter", "greeter.prod.svc"]
    assert spec["uris"] == ["spiffe://cluster.local/ns/prod/sa/greeter"]
    assert {"server auth", "client auth"} <= set(spec["usages"])
    assert spec["privateKey"] == {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"}
    assert found["Certificate", "greeter"]["metadata"]["namespace"] == "prod"


def test_a_pod_certificate_is_one_file_beside_the_authorities_of_its_signer() -> None:
    found = deployed(tls=CertificateSource(way="podcertificate", source="example.com/pods"), port=8443)
    own, authorities = tls_volume(found)["projected"]["sources"]
    assert own["podCertificate"]["signerName"] == "example.com/pods"
    assert own["podCertificate"]["keyType"] == "ECDSAP256"
    assert authorities["clusterTrustBundle"]["signerName"] == "example.com/pods"
    # Without a selector it would match none.
    assert authorities["clusterTrustBundle"]["labelSelector"] == {}
    settings = environment(found)
    assert settings["MICRO_TLS_BUNDLE"].endswith(f"/{own['podCertificate']['credentialBundlePath']}")
    assert settings["MICRO_TLS_CA"].endswith(f"/{authorities['clusterTrustBundle']['path']}")


def test_a_service_with_certificates_that_calls_others_may_look_for_them_by_its_own_account() -> None:
    found = deployed(tls=CertificateSource(way="secret"), port=8443, calls=True, namespace="prod")
    assert tls_volume(found)["secret"] == {"secretName": "greeter-tls"}
    binding = found["RoleBinding", "greeter-discovery"]
    assert binding["roleRef"]["name"] == found["Role", "pymicro-discovery"]["metadata"]["name"]
    account = pod(found)["spec"]["serviceAccountName"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "prod"}]
    assert "automountServiceAccountToken" not in pod(found)["spec"]


def test_a_self_registering_service_with_certificates_says_so_in_its_record_only() -> None:
    found = deployed(tls=CertificateSource(way="secret", plain_port=8080), port=8443, mode="patch")
    assert pod(found)["metadata"]["annotations"] == {"micro.mu/self-register": "greeter"}
    assert pod(found)["spec"]["serviceAccountName"] == "greeter"
    assert [kind for kind, name in found if name == "greeter"].count("ServiceAccount") == 1


def test_without_an_admin_port_probes_ask_the_plain_port() -> None:
    found = deployed(tls=CertificateSource(way="secret", plain_port=8080), port=8443, admin_port=0)
    assert container(found)["readinessProbe"]["grpc"] == {"port": 8080}
