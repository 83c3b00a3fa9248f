"""The chart of deploy/helm, by the real helm: it makes what `pymicro manifest` prints; a cluster takes it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from pymicro.cli.manifests import Deployed, render
from pymicro.cli.manifests_tls import CertificateSource
from tests.cluster.cluster import Cluster
from tests.cluster.helm import CHART, Documents, Helm
from tests.cluster.plane import ControlPlane
from tests.processes import ROOT, clean_environment

pytestmark = pytest.mark.cluster

IMAGE = {"repository": "pymicro-greeter", "tag": "dev"}
POLICIES = ("pymicro-self-register", "pymicro-unmarked-patch")
# Helm's own words on each object.
HELMS = ("app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart")
RIGHTS = (
    "ServiceAccount",
    "Role",
    "RoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """The same service in the words of `pymicro manifest` and in those of the chart.

    Attributes:
        told: What the chart tells the pods besides, since it cannot read it from the code.
    """

    name: str
    manifest: dict[str, Any]
    values: dict[str, Any]
    told: dict[str, str]

    def deployed(self) -> str:
        plan: dict[str, Any] = {"service": "greeter", "version": "1.0.0", "target": "server.py"}
        plan |= {"image": "pymicro-greeter:dev", "keepalive": "10s"}
        return render(Deployed(**plan | self.manifest))

    def chart(self) -> dict[str, Any]:
        return {"service": "greeter", "version": "1.0.0", "image": IMAGE} | self.values

    def env(self) -> dict[str, str]:
        told = {
            "MICRO_SERVER_NAME": "greeter",
            "MICRO_SERVER_VERSION": "1.0.0",
            "MICRO_SERVER_ADDRESS": "0.0.0.0:8080",
            "MICRO_ADMIN_ADDRESS": "0.0.0.0:9464",
            "MICRO_DRAIN_DELAY": "5s",
            "MICRO_STOP_GRACE": "20s",
        }
        return told | self.told


def case(
    name: str,
    manifest: dict[str, Any] | None = None,
    values: dict[str, Any] | None = None,
    **told: str,
) -> Case:
    """Without `values`, both have the same words."""
    manifest = manifest or {}
    return Case(name=name, manifest=manifest, values=manifest if values is None else values, told=told)


def certified(
    name: str,
    tls: CertificateSource,
    *,
    port: int = 8080,
    admin_port: int = 9464,
    mode: str = "labels",
    calls: bool = False,
) -> Case:
    """With certificates; `port` is where it speaks TLS."""
    told = {"MICRO_SERVER_ADDRESS": f"0.0.0.0:{port}"}
    if not admin_port:
        told["MICRO_ADMIN_ADDRESS"] = "off"
    same = {"port": port, "mode": mode, "calls": calls}
    values = {"way": tls.way, "from": tls.source, "plainPort": tls.plain_port}
    return case(
        name,
        # cert-manager's Certificate names it.
        {**same, "tls": tls, "admin_port": admin_port, "namespace": "default"},
        {**same, "tls": values, "adminPort": admin_port},
        **told,
    )


CASES = [
    case("as-it-is"),
    case("self-registering", {"mode": "patch"}),
    case("calls-others", {"calls": True}),
    case("both", {"mode": "patch", "calls": True}),
    case("one-pod", {"replicas": 1}),
    case("no-pod", {"replicas": 0}),
    case(
        "other-ports",
        {"port": 9000, "listen": True, "admin_port": 9001},
        {"port": 9000, "adminPort": 9001},
        MICRO_SERVER_ADDRESS="0.0.0.0:9000",
        MICRO_ADMIN_ADDRESS="0.0.0.0:9001",
    ),
    case("no-admin-port", {"admin_port": 0}, {"adminPort": 0}, MICRO_ADMIN_ADDRESS="off"),
    case(
        "long-stop",
        {"drain_delay": 1.5, "stop_grace": 60.0},
        {"drainDelay": 1.5, "stopGrace": 60},
        MICRO_DRAIN_DELAY="1.5s",
        MICRO_STOP_GRACE="60s",
    ),
    case("no-pings", {"keepalive": ""}),
    case(
        "no-pings-and-no-admin-port",
        {"keepalive": "", "admin_port": 0},
        {"keepalive": "", "adminPort": 0},
        MICRO_ADMIN_ADDRESS="off",
    ),
    case("a-package", {"target": "shop.server:service"}),
    *(
        case(f"named-{service}", {"service": service, "mode": mode}, MICRO_SERVER_NAME=service)
        for service, mode in (
            ("go.micro.srv.Greeter", "labels"),
            ("null", "patch"),
            ("_1", "labels"),
            ("1e3", "patch"),
        )
    ),
    case("a-label-that-could-be-a-number", {"version": "1.10"}, MICRO_SERVER_VERSION="1.10"),
    case(
        "the-image-s-tag-is-the-version",
        {"version": "2.1", "image": "registry.example/greeter:2.1"},
        {"version": "", "image": {"repository": "registry.example/greeter", "tag": "2.1"}},
        MICRO_SERVER_VERSION="2.1",
    ),
    case(
        "a-digest",
        {"image": f"greeter@sha256:{'0f' * 32}"},
        {"image": {"repository": "greeter", "digest": f"sha256:{'0f' * 32}"}},
    ),
    case("as-the-service-is-called", {"image": ""}, {"image": {}}),
    certified("a-secret", CertificateSource(way="secret")),
    certified("a-named-secret", CertificateSource(way="secret", source="shop.tls"), calls=True),
    certified("moving-over", CertificateSource(way="secret", plain_port=8080), port=8443),
    certified(
        "moving-over-without-an-admin-port",
        CertificateSource(way="secret", plain_port=8080),
        port=8443,
        admin_port=0,
    ),
    certified("self-registering-with-tls", CertificateSource(way="secret"), mode="patch"),
    certified("cert-manager", CertificateSource(way="cert-manager", source="shop")),
    certified(
        "cert-manager-of-the-cluster",
        CertificateSource(way="cert-manager", source="ClusterIssuer/shop", plain_port=8080),
        port=8443,
        mode="patch",
        calls=True,
    ),
    certified("a-signer", CertificateSource(way="podcertificate", source="example.com/shop")),
]

each_case = pytest.mark.parametrize("same", CASES, ids=lambda same: same.name)


def printed(text: str, *, calls: bool = False, account: str = "greeter") -> Documents:
    """What `pymicro manifest` printed, with the rights of a client under this release's names.

    All services of a namespace share an account there. Helm wants objects that belong to one
    release; and a service that calls nobody gets none.
    """
    found = {}
    for document in yaml.safe_load_all(text):
        kind, name = document["kind"], document["metadata"]["name"]
        if name in ("pymicro-client", "pymicro-discovery"):
            if not calls:
                continue
            renamed = json.dumps(document).replace("pymicro-client", account)
            document = json.loads(renamed.replace("pymicro-discovery", f"{account}-discovery"))
            name = document["metadata"]["name"]
        if (kind, name) == ("RoleBinding", f"{account}-discovery"):
            # With certificates the account is the service's, and the role is the namespace's.
            document["roleRef"]["name"] = name
        if kind == "Deployment" and calls:
            spec = document["spec"]["template"]["spec"]
            assert spec["serviceAccountName"] in ("pymicro-client", account)
            spec["serviceAccountName"] = account
        # Helm is told the release's; what it renders has none.
        document["metadata"].pop("namespace", None)
        for subject in document.get("subjects", ()):
            subject.pop("namespace", None)
        found[kind, name] = document
    return found


def without_helms_words(found: Documents) -> Documents:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(each) for key, each in value.items() if key not in HELMS}
        return [strip(each) for each in value] if isinstance(value, list) else value

    cleaned: Documents = {}
    for (kind, name), document in found.items():
        assert set(HELMS) <= set(document["metadata"]["labels"]), (kind, name)
        cleaned[kind, name] = strip(document)
        if kind in RIGHTS:
            # `pymicro manifest` puts no labels on them, and nothing of Helm's.
            del cleaned[kind, name]["metadata"]["labels"]
            kept = cleaned[kind, name]["metadata"].pop("annotations", {"helm.sh/resource-policy": "keep"})
            assert kept == {"helm.sh/resource-policy": "keep"}
        for subject in document.get("subjects", ()):
            assert subject["namespace"] == "default"
        for subject in cleaned[kind, name].get("subjects", ()):
            del subject["namespace"]
    return cleaned


def take_env(found: Documents) -> dict[str, Any]:
    """Take the variables out of the Deployment; by name, since their order says nothing."""
    [deployment] = [document for (kind, _), document in found.items() if kind == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    env = container.pop("env")
    named = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in env}
    assert len(named) == len(env)
    return named


@each_case
def test_the_chart_makes_what_manifest_prints(helm: Helm, same: Case) -> None:
    chart = without_helms_words(helm.documents(same.chart()))
    # A role of pods that register themselves lets them look for others too.
    calls = same.manifest.get("calls", False) and same.manifest.get("mode") != "patch"
    manifest = printed(same.deployed(), calls=calls)
    assert take_env(chart) == take_env(manifest) | same.env()
    assert chart == manifest


def test_the_chart_makes_what_the_command_prints_for_the_greeter(helm: Helm) -> None:
    command = ("pymicro", "manifest", "server.py", "--image", "pymicro-greeter:dev", "--replicas", "2")
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT / "examples/greeter",
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    same = case("", {}, {"replicas": 2})
    chart = without_helms_words(helm.documents(same.chart()))
    manifest = printed(done.stdout)
    assert take_env(chart) == take_env(manifest) | same.env()
    assert chart == manifest


@each_case
def test_helm_finds_nothing_to_say_about_the_chart(helm: Helm, same: Case) -> None:
    done = helm.run("lint", "--strict", str(CHART), values=same.chart())
    assert "0 chart(s) failed" in done.stdout
    assert "[WARNING]" not in done.stdout + done.stderr
    assert "[ERROR]" not in done.stdout + done.stderr


def taken(plane: ControlPlane, strict: str, helm: Helm, same: Case) -> None:
    text = helm.template(same.chart())
    # The accounts that roles are bound to are of the release's namespace.
    text = text.replace('namespace: "default"', f"namespace: {strict}")
    done = plane.kubectl(
        "-n", strict, "apply", "-f", "-", "--dry-run=server", "--validate=strict", stdin=text
    )
    assert done.stderr == ""


def source_of(same: Case) -> str:
    return same.values["tls"]["way"] if "tls" in same.values else ""


@pytest.mark.parametrize(
    "same", [each for each in CASES if source_of(each) in ("", "secret")], ids=lambda same: same.name
)
def test_a_cluster_takes_it_without_a_warning(
    plane: ControlPlane, strict: str, helm: Helm, same: Case
) -> None:
    taken(plane, strict, helm, same)


def test_cert_manager_takes_its_certificates(
    extended: ControlPlane, extended_strict: str, helm: Helm
) -> None:
    """(The API server takes Pod Certificates as `pymicro manifest` writes them: test_manifests.py.)"""
    cases = [each for each in CASES if source_of(each) == "cert-manager"]
    assert len(cases) == 2
    for same in cases:
        taken(extended, extended_strict, helm, same)


MORE: dict[str, Any] = {
    "settings": {"log_level": "debug", "max_concurrent_calls": 1000000, "tracing": False, "registry": "etcd"},
    "env": [{"name": "DATABASE", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}}],
    "envFrom": [{"secretRef": {"name": "more"}}],
    "volumes": [{"name": "tls", "secret": {"secretName": "greeter-tls"}}],
    "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}],
    "imagePullSecrets": [{"name": "pull"}],
    "command": ["python", "main.py", "a b"],
    "podLabels": {"team": "shop"},
    "podAnnotations": {"example.com/note": "yes"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "shop", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "replicas": None,
    "account": {"annotations": {"example.com/role": "reader"}},
    "networkPolicy": {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "web"}}}]
    },
    "disruptionBudget": {"maxUnavailable": "25%"},
    "resources": {"limits": {"memory": "1Gi"}},
}


def test_what_an_operator_adds_goes_where_it_belongs(plane: ControlPlane, strict: str, helm: Helm) -> None:
    values = case("", {}, MORE).chart()
    found = helm.documents(values)
    deployment = found["Deployment", "greeter"]["spec"]
    pod = deployment["template"]["spec"]
    [container] = pod["containers"]
    assert "replicas" not in deployment
    env = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}
    assert env["MICRO_LOG_LEVEL"] == "debug"
    assert env["MICRO_MAX_CONCURRENT_CALLS"] == "1000000"
    assert env["MICRO_TRACING"] == "false"
    assert env["MICRO_REGISTRY"] == "etcd"
    assert env["DATABASE"] == MORE["env"][0]["valueFrom"]
    assert container["envFrom"] == MORE["envFrom"]
    assert container["command"] == MORE["command"]
    assert container["resources"] == {
        "requests": {"cpu": "50m", "memory": "128Mi"},
        "limits": {"memory": "1Gi"},
    }
    assert [each["name"] for each in pod["volumes"]] == ["tmp", "tls"]
    assert container["volumeMounts"][1] == MORE["volumeMounts"][0]
    for key in ("imagePullSecrets", "nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert pod[key] == MORE[key]
    metadata = deployment["template"]["metadata"]
    assert metadata["labels"]["team"] == "shop"
    assert metadata["labels"]["micro.mu/selector-greeter"] == "service"
    assert metadata["annotations"]["example.com/note"] == "yes"
    assert metadata["annotations"]["micro.mu/metadata-admin-port"] == "9464"
    assert found["ServiceAccount", "greeter"]["metadata"]["annotations"] == MORE["account"]["annotations"]
    assert pod["serviceAccountName"] == "greeter"
    calls, _ = found["NetworkPolicy", "greeter"]["spec"]["ingress"]
    assert calls["from"] == [{"podSelector": {}}, *MORE["networkPolicy"]["from"]]
    assert found["PodDisruptionBudget", "greeter"]["spec"]["maxUnavailable"] == "25%"
    done = plane.kubectl(
        *("-n", strict, "apply", "-f", "-", "--dry-run=server", "--validate=strict"),
        stdin=helm.template(values),
    )
    assert done.stderr == ""


def test_what_is_not_wanted_is_left_out(helm: Helm) -> None:
    off = {"enabled": False}
    values = case(
        "", {}, {"disruptionBudget": off, "networkPolicy": off, "account": {"name": "there"}}
    ).chart()
    found = helm.documents(values | {"calls": True})
    assert set(found) == {("Deployment", "greeter")}
    assert found["Deployment", "greeter"]["spec"]["template"]["spec"]["serviceAccountName"] == "there"
    values = case("", {}, {"mode": "patch", "selfRegister": {"role": False, "policies": False}}).chart()
    kinds = {kind for kind, _ in helm.documents(values)}
    assert kinds == {"Deployment", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount", "RoleBinding"}


def test_a_client_of_endpoint_slices_may_read_those_and_nothing_else(helm: Helm) -> None:
    for mode in ("labels", "patch"):
        values = case(
            "", {}, {"calls": True, "mode": mode, "settings": {"registry": "endpointslice"}}
        ).chart()
        [rule] = helm.documents(values)["Role", "greeter-discovery"]["rules"]
        assert rule == {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        }


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"service": ""}, "service is not set: it is the name under which clients call the service"),
        ({"service": "greeter!"}, '"greeter!" does not end in a letter or digit, as a pod\'s label must'),
        ({"service": "grüße"}, "take `pymicro manifest`"),
        ({"service": "g" * 55}, "has 55 bytes; as a pod's label it may have 54"),
        ({"version": "1.0+7"}, '"1.0+7" cannot be a label'),
        ({"version": 1.1}, "at '/version': got number, want string"),
        ({"name": "Greeter"}, '"Greeter" cannot be the name of a Deployment'),
        ({"mode": "both"}, "at '/mode': value must be one of 'labels', 'patch'"),
        ({"port": 0}, "at '/port': minimum: got 0, want 1"),
        ({"port": "8080"}, "at '/port': got string, want integer"),
        ({"adminPort": 8080}, "adminPort: 8080 is `port` too"),
        ({"replicas": -1}, "at '/replicas': minimum: got -1, want 0"),
        ({"stopGrace": "20s"}, "at '/stopGrace': '20s' does not match pattern"),
        ({"replica": 3}, "additional properties 'replica' not allowed"),
        (
            {"settings": {"log_levle": "debug"}},
            "at '/settings': additional properties 'log_levle' not allowed",
        ),
        ({"settings": {"registry_password": "x"}}, "additional properties 'registry_password' not allowed"),
        ({"settings": {"stop_grace": "1m"}}, "additional properties 'stop_grace' not allowed"),
        (
            {"settings": {"log_level": ["a"]}},
            "at '/settings/log_level': got array, want boolean or number or string",
        ),
        ({"env": [{"value": "x"}]}, "missing property 'name'"),
        ({"tls": {"way": "files"}}, "at '/tls/way': value must be one of '', 'cert-manager', 'secret',"),
        ({"tls": {"plainPort": 8443}}, "tls.way is not set: it says where the certificates come from"),
        ({"tls": {"way": "cert-manager"}}, 'tls.from: "" is neither the name of an Issuer of cert-manager'),
        ({"tls": {"way": "cert-manager", "from": "Vault/x"}}, 'tls.from: "Vault/x" is neither'),
        ({"tls": {"way": "secret", "from": "A"}}, 'tls.from: "A" is no name of a Secret'),
        ({"tls": {"way": "podcertificate", "from": "x"}}, 'tls.from: "x" is no name of a signer, such as'),
        ({"tls": {"way": "secret", "plainPort": 8080}}, "tls.plainPort: 8080 is `port` too"),
        ({"tls": {"way": "secret", "plainPort": 9464}}, "tls.plainPort: 9464 is `adminPort` too"),
        ({"tls": {"way": "secret"}, "adminPort": 0}, "the kubelet's probes of health speak no TLS"),
        (
            {"tls": {"way": "secret"}, "settings": {"tls_ca": "/ca.pem"}},
            "settings.tls_ca: tls.way says where the certificates are",
        ),
        (
            {"podMonitor": {"enabled": True}, "adminPort": 0},
            "Prometheus asks the admin port, and adminPort is 0",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(helm: Helm, values: dict[str, Any], words: str) -> None:
    done = helm.run("template", "greeter", str(CHART), values=case("", {}, values).chart(), check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert words in done.stderr


def test_the_pod_monitor_is_one_of_the_operators(
    extended: ControlPlane, extended_strict: str, helm: Helm
) -> None:
    values = case("", {}, {"podMonitor": {"enabled": True, "labels": {"release": "stack"}}}).chart()
    done = extended.kubectl(
        "-n", extended_strict, "apply", "-f", "-", "--validate=strict", stdin=helm.template(values)
    )
    assert done.stderr == ""
    found = extended.kubectl("-n", extended_strict, "get", "podmonitor", "greeter", "-o", "json").stdout
    taken = json.loads(found)
    documents = helm.documents(values)
    # A field that the operator does not know would be gone.
    assert taken["spec"] == documents["PodMonitor", "greeter"]["spec"]
    assert taken["metadata"]["labels"]["release"] == "stack"
    pod = documents["Deployment", "greeter"]["spec"]["template"]
    assert taken["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    [container] = pod["spec"]["containers"]
    ports = [port["name"] for port in container["ports"]]
    assert [each["port"] in ports for each in taken["spec"]["podMetricsEndpoints"]] == [True]


# Releases


@pytest.fixture
def policies_gone(plane: ControlPlane) -> Iterator[None]:
    """They are one for the cluster: those of another test are in the way of this one, as this one's are."""

    def remove() -> None:
        for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
            plane.kubectl("delete", kind, *POLICIES, "--ignore-not-found")

    remove()
    yield
    remove()


def test_a_release_is_installed_changed_and_taken_away(
    plane: ControlPlane, namespace: str, helm: Helm
) -> None:
    def deployments() -> dict[str, int]:
        items = plane.api.get(f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"]
        return {item["metadata"]["name"]: item["spec"]["replicas"] for item in items}

    where = ("--namespace", namespace)
    values = case("", {}, {"calls": True}).chart()
    installed = helm.run("install", "shop", str(CHART), *where, values=values, kubeconfig=plane.kubeconfig)
    assert 'clients call it by client.channel("greeter")' in installed.stdout
    assert deployments() == {"greeter": 3}
    helm.run(
        *("upgrade", "shop", str(CHART), *where), values=values | {"replicas": 5}, kubeconfig=plane.kubeconfig
    )
    assert deployments() == {"greeter": 5}
    refused = helm.run(
        *("upgrade", "shop", str(CHART), *where),
        values=values | {"replicas": "many"},
        kubeconfig=plane.kubeconfig,
        check=False,
    )
    assert "at '/replicas': got string, want null or integer" in refused.stderr
    # A canary of the same service, under a name of its own: each release selects its own pods.
    canary = values | {"name": "greeter-canary", "version": "1.1.0", "replicas": 1}
    helm.run("install", "canary", str(CHART), *where, values=canary, kubeconfig=plane.kubeconfig)
    assert deployments() == {"greeter": 5, "greeter-canary": 1}
    helm.run("rollback", "shop", "1", *where, kubeconfig=plane.kubeconfig)
    assert deployments() == {"greeter": 3, "greeter-canary": 1}
    for release in ("shop", "canary"):
        helm.run("uninstall", release, *where, kubeconfig=plane.kubeconfig)
    for kind in (
        "deployments",
        "poddisruptionbudgets",
        "networkpolicies",
        "roles",
        "rolebindings",
        "secrets",
    ):
        assert plane.kubectl("-n", namespace, "get", kind, "-o", "name").stdout == "", kind


@pytest.mark.usefixtures("policies_gone")
def test_the_limit_of_pods_that_register_themselves_outlives_the_release_that_made_it(
    plane: ControlPlane, namespace: str, helm: Helm
) -> None:
    where = ("--namespace", namespace)
    values = case("", {}, {"mode": "patch"}).chart()
    helm.run("install", "first", str(CHART), *where, values=values, kubeconfig=plane.kubeconfig)
    other = values | {"service": "other"}
    twice = helm.run(
        *("install", "second", str(CHART), *where), values=other, kubeconfig=plane.kubeconfig, check=False
    )
    assert twice.returncode != 0
    assert "pymicro-self-register" in twice.stderr
    once = other | {"selfRegister": {"role": False, "policies": False}}
    helm.run("install", "third", str(CHART), *where, values=once, kubeconfig=plane.kubeconfig)
    helm.run("uninstall", "first", *where, kubeconfig=plane.kubeconfig)
    for policy in POLICIES:
        plane.kubectl("get", "validatingadmissionpolicies", policy)
        plane.kubectl("get", "validatingadmissionpolicybindings", policy)
    plane.kubectl("-n", namespace, "get", "role", "pymicro-self-register")
    # It is there to come back to.
    helm.run("install", "first", str(CHART), *where, values=values, kubeconfig=plane.kubeconfig)


def test_pods_of_a_release_find_and_call_each_other(
    cluster: Cluster, pods_namespace: str, helm: Helm
) -> None:
    values = case("", {}, {"calls": True, "port": 9000, "settings": {"log_level": "debug"}}).chart()
    helm.run(
        *("install", "greeter", str(CHART), "--namespace", pods_namespace),
        values=values,
        kubeconfig=cluster.plane.kubeconfig,
    )
    selector = "app.kubernetes.io/instance=greeter"
    pods = cluster.wait_for_pods(pods_namespace, selector, 3)
    found = cluster.execute(pods[0], "python", "-m", "pymicro", "nodes", "greeter", "-o", "json")
    assert found.returncode == 0, found.stderr
    assert {node["address"] for node in json.loads(found.stdout)} == {f"{pod.ip}:9000" for pod in pods}
    called = cluster.execute(
        pods[0], "python", "-m", "pymicro", "call", "greeter", "Greeter.SayHello", '{"name": "Ada"}'
    )
    assert "Hello Ada" in called.stdout, called.stderr
    helm.run(
        *("upgrade", "greeter", str(CHART), "--namespace", pods_namespace),
        values=values | {"version": "1.0.1", "replicas": 2},
        kubeconfig=cluster.plane.kubeconfig,
    )
    # New pods come one after the other, and an old one drains after each.
    after = cluster.wait_for_pods(pods_namespace, selector, 2, timeout=240.0)
    assert not {pod.uid for pod in after} & {pod.uid for pod in pods}
    found = cluster.execute(after[0], "python", "-m", "pymicro", "nodes", "greeter", "-o", "json")
    assert {node["version"] for node in json.loads(found.stdout)} == {"1.0.1"}
