"""The files of deploy/: what they promise, and that `pymicro manifest` prints the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pymicro.cli.manifests import Deployed, render
from pymicro.cli.manifests_tls import CertificateSource
from pymicro.kubernetes.pods.reader import MOST_NODES_OF_POD
from pymicro.nodes.record import LONGEST_RECORD
from pymicro.nodes.wellknown import ZONE, ping_interval
from pymicro.runtime.admin_port import POD_PORT
from pymicro.serving.server import Server
from pymicro.settings.config import Config, load
from tests.processes import ROOT, Processes

DEPLOY = ROOT / "deploy"
# What deploy/rbac and deploy/rbac-self-register apply and `pymicro manifest` prints.
MANIFESTS = ROOT / "pymicro/cli/data/manifests"
DISCOVERY = MANIFESTS / "rbac/discovery.yaml"
SELF_REGISTER = MANIFESTS / "rbac-self-register/role.yaml"
POLICY = MANIFESTS / "rbac-self-register/admission-policy.yaml"
UNMARKED = MANIFESTS / "rbac-self-register/admission-policy-unmarked.yaml"
FOLDERS = sorted(path.parent for place in (DEPLOY, MANIFESTS) for path in place.glob("*/kustomization.yaml"))


def read(path: str | Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / path).read_text()))


def kind(path: str | Path, wanted: str) -> dict[str, Any]:
    (only,) = [document for document in read(path) if document["kind"] == wanted]
    return only


def greeter(**changes: Any) -> str:
    plan = Deployed(
        service="greeter",
        version="1.0.0",
        target="server.py",
        image="pymicro-greeter:dev",
        keepalive=Server(Config()).ping_interval,
        **changes,
    )
    return render(plan)


def without_header(path: str) -> str:
    """Without the comment that tells where one finds the same elsewhere."""
    return (DEPLOY / path).read_text().partition("\n\n")[2]


def test_manifest_prints_the_greeters_own() -> None:
    files = [
        without_header(f"greeter/{name}.yaml") for name in ("server", "disruption-budget", "network-policy")
    ]
    assert greeter() == "---\n".join([DISCOVERY.read_text(), *files])


def test_manifest_prints_the_same_account_role_and_policies() -> None:
    text = greeter(mode="patch")
    assert f"---\n{without_header('greeter-self-register/account.yaml')}---\n" in text
    for file in (SELF_REGISTER, POLICY, UNMARKED):
        assert f"---\n{file.read_text()}---\n" in text


def test_manifest_prints_what_the_overlay_makes_of_a_self_registering_greeter() -> None:
    printed = next(
        document for document in yaml.safe_load_all(greeter(mode="patch")) if document["kind"] == "Deployment"
    )
    base, patch = (
        kind("greeter/server.yaml", "Deployment"),
        kind("greeter-self-register/server.yaml", "Deployment"),
    )
    wanted = base["spec"]["template"]
    changes = patch["spec"]["template"]
    for what in ("labels", "annotations"):
        for key, value in changes["metadata"][what].items():
            if value is None:
                del wanted["metadata"][what][key]
            else:
                wanted["metadata"][what][key] = value
    account = changes["spec"]["serviceAccountName"]
    # The overlay must say again what is the default.
    assert changes["spec"]["automountServiceAccountToken"] is True
    del wanted["spec"]["automountServiceAccountToken"]
    wanted["spec"]["serviceAccountName"] = account
    (entry,) = changes["spec"]["containers"][0]["env"]
    env = wanted["spec"]["containers"][0]["env"]
    wanted["spec"]["containers"][0]["env"] = [
        entry if there["name"] == entry["name"] else there for there in env
    ]
    assert printed == base


def test_manifest_prints_the_account_of_a_greeter_with_certificates() -> None:
    text = greeter(tls=CertificateSource(way="secret"), port=8443)
    assert f"---\n{without_header('greeter-mtls/account.yaml')}---\n" in text


def test_manifest_prints_what_cert_manager_issues_for_the_greeter() -> None:
    tls = CertificateSource(way="cert-manager", source="greeter-authority")
    printed = yaml.safe_load_all(greeter(tls=tls, port=8443, namespace="default"))
    (certificate,) = [document for document in printed if document["kind"] == "Certificate"]
    # The overlay leaves the namespace to whoever applies it.
    assert certificate["metadata"].pop("namespace") == "default"
    assert certificate in read("greeter-mtls-cert-manager/certificates.yaml")
    secrets = {
        document["metadata"]["name"]: document["spec"]["secretName"]
        for document in read("greeter-mtls-cert-manager/certificates.yaml")
    }
    for file, name in (("server", "greeter"), ("client", "greeter-client")):
        (volume,) = pod_spec(f"greeter-mtls/{file}.yaml")["volumes"]
        assert volume["secret"]["secretName"] == secrets[name]
    account = kind("greeter-mtls/account.yaml", "ServiceAccount")["metadata"]["name"]
    assert certificate["spec"]["uris"] == [f"spiffe://cluster.local/ns/default/sa/{account}"]


def test_greeters_with_certificates_speak_nothing_but_tls_and_their_client_wants_it() -> None:
    for file in ("server", "client"):
        (container,) = pod_spec(f"greeter-mtls/{file}.yaml")["containers"]
        config = load(environ={entry["name"]: entry["value"] for entry in container["env"]})
        assert (config.client_tls, config.tls_client_certificates) == ("require", "require")
        assert not config.tls_plain_address
        (mount,) = container["volumeMounts"]
        # A mount of a subPath would never see another certificate.
        assert mount == {"name": "tls", "mountPath": config.tls_dir, "readOnly": True}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_everything_a_kustomization_names_is_there_and_everything_there_is_named(folder: Path) -> None:
    (kustomization,) = read(folder / "kustomization.yaml")
    patches = [patch["path"] for patch in kustomization.get("patches", ()) if "path" in patch]
    named = [*kustomization["resources"], *patches]
    for name in named:
        place = folder / name
        assert place.is_file() or (place / "kustomization.yaml").is_file()
    files = {path.name for path in folder.iterdir()} - {"kustomization.yaml"}
    assert files == {name for name in named if "/" not in name}
    assert f"`{folder.name}/`" in (DEPLOY / "README.md").read_text()


PODS = ("greeter/server.yaml", "greeter/client.yaml")


def pod_spec(file: str) -> dict[str, Any]:
    spec = kind(file, "Deployment")["spec"]["template"]["spec"]
    assert isinstance(spec, dict)
    return spec


@pytest.mark.parametrize("file", PODS)
def test_pods_may_do_nothing_that_they_do_not_need(file: str) -> None:
    spec = pod_spec(file)
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]
    assert container["volumeMounts"][0]["name"] == spec["volumes"][0]["name"]


def test_a_greeter_has_the_time_that_a_clean_stop_takes() -> None:
    spec = pod_spec("greeter/server.yaml")
    stop_grace = load(environ={}).stop_grace
    drain_delay = 5  # of registry kubernetes
    assert spec["terminationGracePeriodSeconds"] >= drain_delay + stop_grace + 5


def test_a_greeter_is_found_and_probed_at_the_port_it_listens_on() -> None:
    (container,) = pod_spec("greeter/server.yaml")["containers"]
    assert container["ports"] == [
        {"name": "grpc", "containerPort": 8080},
        {"name": "admin", "containerPort": POD_PORT},
    ]
    for probe, path in (("startup", "/startupz"), ("readiness", "/readyz"), ("liveness", "/livez")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": POD_PORT}
    template = kind("greeter/server.yaml", "Deployment")["spec"]["template"]["metadata"]
    assert template["annotations"]["micro.mu/metadata-admin-port"] == str(POD_PORT)
    monitor = kind("pod-monitor/pod-monitor.yaml", "PodMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= template["labels"].items()
    assert [(place["port"], place["path"]) for place in monitor["podMetricsEndpoints"]] == [
        ("admin", "/metrics")
    ]
    service = kind("greeter-static/service.yaml", "Service")["spec"]
    assert service["ports"][0]["port"] == 8080  # what the selector static dials
    assert service["ports"][0]["targetPort"] == "grpc"
    labels = kind("greeter/server.yaml", "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()


def test_a_restart_never_has_fewer_pods_than_before() -> None:
    strategy = kind("greeter/server.yaml", "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxUnavailable": 0, "maxSurge": 1}


def test_clients_may_only_read_and_greeters_nothing() -> None:
    (rule,) = kind(DISCOVERY, "Role")["rules"]
    assert rule == {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
    client = pod_spec("greeter/client.yaml")
    assert client["serviceAccountName"] == kind(DISCOVERY, "ServiceAccount")["metadata"]["name"]
    server = pod_spec("greeter/server.yaml")
    assert server["automountServiceAccountToken"] is False


def test_self_registering_pods_may_patch_besides_and_are_marked_for_the_policy() -> None:
    pods_rule, mark = kind(SELF_REGISTER, "Role")["rules"]
    assert pods_rule == {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch", "patch"]}
    (group,), (resource,), (verb,) = mark["apiGroups"], mark["resources"], mark["verbs"]
    asked = (
        f"authorizer.group('{group}').resource('{resource}').namespace(request.namespace)"
        f".check('{verb}').allowed()"
    )
    for file, marked in ((POLICY, asked), (UNMARKED, f"!{asked}")):
        policy = kind(file, "ValidatingAdmissionPolicy")["spec"]
        assert policy["matchConditions"][1]["expression"].replace(" ", "") == marked
        assert policy["failurePolicy"] == "Fail"
        binding = kind(file, "ValidatingAdmissionPolicyBinding")["spec"]
        assert binding["validationActions"] == ["Deny"]


def test_the_second_policy_is_in_force_where_the_role_is() -> None:
    role = kind(SELF_REGISTER, "Role")
    policy = kind(UNMARKED, "ValidatingAdmissionPolicy")["spec"]
    assert policy["paramKind"] == {"apiVersion": role["apiVersion"], "kind": role["kind"]}
    param = kind(UNMARKED, "ValidatingAdmissionPolicyBinding")["spec"]["paramRef"]
    assert param == {"name": role["metadata"]["name"], "parameterNotFoundAction": "Allow"}


def test_the_policy_permits_what_we_write_and_what_clients_read() -> None:
    rules = [rule["expression"] for rule in kind(POLICY, "ValidatingAdmissionPolicy")["spec"]["validations"]]
    assert any(f"bytes(record).size() <= {LONGEST_RECORD // 2})" in rule for rule in rules)
    assert any(f"record.size() <= {MOST_NODES_OF_POD})" in rule for rule in rules)


def test_a_self_registering_service_has_an_account_of_its_own() -> None:
    account = kind("greeter-self-register/account.yaml", "ServiceAccount")["metadata"]["name"]
    binding = kind("greeter-self-register/account.yaml", "RoleBinding")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert binding["roleRef"]["name"] == kind(SELF_REGISTER, "Role")["metadata"]["name"]
    assert pod_spec("greeter-self-register/server.yaml")["serviceAccountName"] == account
    # Nobody has the right without a binding of their own.
    kinds = {document["kind"] for file in (SELF_REGISTER, POLICY, UNMARKED) for document in read(file)}
    assert kinds == {"Role", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}


def test_pods_are_spread_over_machines_and_zones_and_never_wait_for_one() -> None:
    spreads = pod_spec("greeter/server.yaml")["topologySpreadConstraints"]
    assert [spread["topologyKey"] for spread in spreads] == ["kubernetes.io/hostname", ZONE]
    template = kind("greeter/server.yaml", "Deployment")["spec"]["template"]
    for spread in spreads:
        assert spread["whenUnsatisfiable"] == "ScheduleAnyway"
        assert spread["maxSkew"] == 1
        # A selector that fits no pod spreads nothing, and nobody is told.
        assert spread["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        # With the pods of the last version counted, the new ones are spread around those.
        assert spread["matchLabelKeys"] == ["pod-template-hash"]


def test_a_pod_that_is_not_ready_keeps_no_machine_from_being_drained() -> None:
    budget = kind("greeter/disruption-budget.yaml", "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_port_of_the_calls_can_be_reached_from_the_namespace_only_and_the_admin_port_by_all() -> None:
    policy = kind("greeter/network-policy.yaml", "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    calls, admin = policy["ingress"]
    assert calls["from"] == [{"podSelector": {}}]
    assert admin["from"] == [{"namespaceSelector": {}}]
    (container,) = pod_spec("greeter/server.yaml")["containers"]
    for rule, named in zip((calls, admin), container["ports"], strict=True):
        assert rule["ports"] == [{"port": named["name"], "protocol": "TCP"}]
    template = kind("greeter/server.yaml", "Deployment")["spec"]["template"]
    assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


@pytest.mark.parametrize("file", PODS)
def test_pods_are_told_their_zone_where_the_cluster_knows_it(file: str) -> None:
    (container,) = pod_spec(file)["containers"]
    (entry,) = [entry for entry in container["env"] if entry["name"] == "MICRO_ZONE"]
    assert entry["valueFrom"]["fieldRef"]["fieldPath"] == f"metadata.labels['{ZONE}']"
    # Where there is no such label the variable is empty, and then counts as not set.
    assert load(environ={"MICRO_ZONE": ""}).source("zone") == "default"


def test_clients_are_told_that_they_may_ping_a_labelled_greeter() -> None:
    annotations = kind("greeter/server.yaml", "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert ping_interval({"keepalive": annotations["micro.mu/metadata-keepalive"]}) == 10


def test_all_pods_run_the_image_that_the_readme_builds() -> None:
    build = "docker build -t pymicro-greeter:dev ."
    assert build in (DEPLOY / "README.md").read_text()
    for file in PODS:
        (container,) = pod_spec(file)["containers"]
        assert container["image"] == "pymicro-greeter:dev"
        assert container["workingDir"] == "/app"
        program = next(word for word in container["command"] if word.endswith(".py"))
        assert (ROOT / "examples/greeter" / program).is_file()


def test_the_static_client_asks_the_dns_and_connections_end_now_and_then() -> None:
    (client,) = pod_spec("greeter-static/client.yaml")["containers"]
    assert "--selector=static" in client["command"]
    (server,) = pod_spec("greeter-static/server.yaml")["containers"]
    env = {entry["name"]: entry["value"] for entry in server["env"]}
    assert load(environ=env).max_connection_age == 60


def test_a_labelled_greeter_starts_and_stops_without_an_api_server_or_a_token(processes: Processes) -> None:
    (container,) = pod_spec("greeter/server.yaml")["containers"]
    downward = {"POD_NAME": "greeter-1", "POD_NAMESPACE": "default", "POD_IP": "127.0.0.1", "MICRO_ZONE": ""}
    env = {entry["name"]: entry.get("value") or downward[entry["name"]] for entry in container["env"]}
    server = processes.python(
        *container["command"][1:],
        "--server-address=127.0.0.1:0",
        "--drain-delay=0",
        cwd=ROOT / "examples/greeter",
        # Of the pod's network, where nobody answers.
        KUBERNETES_SERVICE_HOST="127.0.0.1",
        KUBERNETES_SERVICE_PORT="1",
        MICRO_REGISTRY_ADDRESS="",
        MICRO_LOG_LEVEL="debug",
        **env,
    )
    server.wait_for(r"greeter 1\.0\.0 on 127\.0\.0\.1:\d+, registered$")
    server.wait_for(r"greeter: registry kubernetes")
    assert server.stop() == 0, server.report()
