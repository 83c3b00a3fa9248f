"""The manifests of deploy/ and of `pymicro manifest`, as a real API server takes them.

There is no scheduler here and no network plug-in. So the spread of pods and the NetworkPolicy are
accepted by the API server (and held against the pods in tests/deploy), and nobody enforces them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pymicro.cli.manifests import Deployed, render
from pymicro.cli.manifests_tls import CertificateSource
from tests.cluster import pods
from tests.cluster.api import Refused
from tests.cluster.conftest import RESTRICTED
from tests.cluster.plane import ControlPlane, eventually
from tests.processes import ROOT

pytestmark = pytest.mark.cluster

MONITOR, CERT_MANAGER = "pod-monitor", "greeter-mtls-cert-manager"
# All but these are of Kubernetes itself.
FOLDERS = sorted(
    {path.parent.name for path in (ROOT / "deploy").glob("*/kustomization.yaml")} - {MONITOR, CERT_MANAGER}
)


def greeter(**changes: Any) -> str:
    plan = Deployed(service="greeter", version="1.0.0", target="server.py", **changes)
    return render(plan)


def kustomized(plane: ControlPlane, folder: Path | str) -> dict[tuple[str, str], dict[str, Any]]:
    found = list(yaml.safe_load_all(plane.kubectl("kustomize", str(folder)).stdout))
    return {(document["kind"], document["metadata"]["name"]): document for document in found}


def pod_of(deployment: dict[str, Any]) -> dict[str, Any]:
    template = deployment["spec"]["template"]
    assert isinstance(template, dict)
    return template


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_is_taken_as_it_is_and_without_a_warning(
    plane: ControlPlane, strict: str, folder: str
) -> None:
    done = plane.kubectl(
        "-n", strict, "apply", "-k", str(ROOT / "deploy" / folder), "--dry-run=server", "--validate=strict"
    )
    assert done.stderr == ""


@pytest.mark.parametrize("mode", ["labels", "patch"])
@pytest.mark.parametrize("service", ["greeter", "go.micro.srv.Greeter", "null", "_1", "g" * 54])
def test_what_manifest_prints_is_taken_without_a_warning(
    plane: ControlPlane, strict: str, mode: str, service: str
) -> None:
    plan = Deployed(service=service, version="1.10", target="a b.py", mode=mode, namespace=strict, port=9000)  # type: ignore[arg-type]
    done = plane.kubectl("apply", "-f", "-", "--dry-run=server", "--validate=strict", stdin=render(plan))
    assert done.stderr == ""


def test_the_overlay_and_manifest_make_the_same_self_registering_greeter(plane: ControlPlane) -> None:
    ours = kustomized(plane, ROOT / "deploy/greeter-self-register")["Deployment", "greeter"]
    printed = next(
        document
        for document in yaml.safe_load_all(greeter(mode="patch", image="pymicro-greeter:dev"))
        if document["kind"] == "Deployment"
    )
    # The overlay has to take back what the base says; it is the default.
    assert pod_of(ours)["spec"].pop("automountServiceAccountToken") is True
    for deployment in (ours, printed):
        (container,) = pod_of(deployment)["spec"]["containers"]
        container["env"].sort(key=lambda entry: entry["name"])
    assert ours == printed


def test_the_overlay_and_manifest_make_the_same_greeter_with_certificates(plane: ControlPlane) -> None:
    ours = kustomized(plane, ROOT / "deploy/greeter-mtls")["Deployment", "greeter"]
    text = greeter(
        tls=CertificateSource(way="secret"), port=8443, keepalive="10s", image="pymicro-greeter:dev"
    )
    printed = next(one for one in yaml.safe_load_all(text) if one["kind"] == "Deployment")
    for deployment in (ours, printed):
        (container,) = pod_of(deployment)["spec"]["containers"]
        for what in ("env", "ports", "volumeMounts"):
            container[what].sort(key=lambda entry: entry["name"])
        pod_of(deployment)["spec"]["volumes"].sort(key=lambda entry: entry["name"])
    assert ours == printed


@pytest.mark.parametrize("plain_port", [0, 8080])
@pytest.mark.parametrize("mode", ["labels", "patch"])
def test_a_greeter_with_certificates_of_a_secret_is_taken_without_a_warning(
    plane: ControlPlane, strict: str, mode: str, plain_port: int
) -> None:
    tls = CertificateSource(way="secret", plain_port=plain_port)
    text = greeter(tls=tls, port=8443, mode=mode, calls=True, namespace=strict)
    done = plane.kubectl("apply", "-f", "-", "--dry-run=server", "--validate=strict", stdin=text)
    assert done.stderr == ""


@pytest.fixture(scope="module")
def certifying() -> Iterator[ControlPlane]:
    """A control plane that knows Pod Certificates, which Kubernetes had behind gates before 1.37."""
    gates = ("PodCertificateRequest", "ClusterTrustBundle", "ClusterTrustBundleProjection")
    flags = (
        f"--feature-gates={','.join(f'{gate}=true' for gate in gates)}",
        "--runtime-config=certificates.k8s.io/v1alpha1=true,certificates.k8s.io/v1beta1=true",
    )
    with ControlPlane(controllers=(), api_flags=flags) as started:
        yield started


def test_a_pod_certificate_is_taken_as_it_is_written(certifying: ControlPlane, tmp_path: Path) -> None:
    """The API's part of it: nobody writes the files here, because that is a real kubelet's work."""
    namespace = certifying.namespace()
    certifying.kubectl("label", "namespace", namespace, RESTRICTED)
    text = greeter(
        tls=CertificateSource(way="podcertificate", source="example.com/pods"), port=8443, namespace=namespace
    )
    done = certifying.kubectl("apply", "-f", "-", "--validate=strict", stdin=text)
    assert done.stderr == ""
    taken = certifying.kubectl("-n", namespace, "get", "deployment", "greeter", "-o", "json").stdout
    written = next(one for one in yaml.safe_load_all(text) if one["kind"] == "Deployment")
    [was], [volume] = (
        [one["projected"]["sources"] for one in pod_of(of)["spec"]["volumes"] if one["name"] == "tls"]
        for of in (written, json.loads(taken))
    )
    # A field that the API server does not know, or whose gate is off, would be gone.
    assert volume == was


def test_no_custom_resource_is_needed(plane: ControlPlane) -> None:
    known = plane.kubectl("api-resources", "--no-headers", "-o", "name").stdout.split()
    assert "customresourcedefinitions.apiextensions.k8s.io" in known
    assert plane.kubectl("get", "customresourcedefinitions").stdout == ""
    groups = {
        "apps",
        "policy",
        "networking.k8s.io",
        "rbac.authorization.k8s.io",
        "admissionregistration.k8s.io",
    }
    for folder in FOLDERS:
        for document in yaml.safe_load_all(plane.kubectl("kustomize", str(ROOT / "deploy" / folder)).stdout):
            group, _, version = document["apiVersion"].rpartition("/")
            # Of Kubernetes, and stable.
            assert group in groups | {""}, folder
            assert version == "v1"


def test_the_pod_monitor_is_one_of_the_operators(extended: ControlPlane, extended_strict: str) -> None:
    folder = str(ROOT / "deploy" / MONITOR)
    done = extended.kubectl("-n", extended_strict, "apply", "-k", folder, "--validate=strict")
    assert done.stderr == ""
    taken = json.loads(
        extended.kubectl("-n", extended_strict, "get", "podmonitor", "pymicro", "-o", "json").stdout
    )
    written = kustomized(extended, folder)["PodMonitor", "pymicro"]
    # A field that the operator does not know would be gone.
    assert taken["spec"] == written["spec"]
    written["spec"]["podMetricsEndpoints"][0]["interval"] = "often"
    with pytest.raises(AssertionError, match=r"podMetricsEndpoints\[0\]\.interval"):
        extended.kubectl("-n", extended_strict, "apply", "-f", "-", stdin=json.dumps(written))


def test_the_certificates_are_cert_managers(extended: ControlPlane, extended_strict: str) -> None:
    tls = CertificateSource(way="cert-manager", source="ClusterIssuer/ca")
    text = greeter(tls=tls, port=8443, namespace=extended_strict, calls=True)
    folder = str(ROOT / "deploy" / CERT_MANAGER)
    for given, stdin in ((("-f", "-"), text), (("-n", extended_strict, "-k", folder), "")):
        done = extended.kubectl("apply", *given, "--validate=strict", stdin=stdin)
        assert done.stderr == ""
        answer = extended.kubectl("-n", extended_strict, "get", "certificate", "greeter", "-o", "json").stdout
        written = (
            kustomized(extended, folder)
            if not stdin
            else {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(stdin)}
        )
        # A field that cert-manager does not know would be gone.
        assert json.loads(answer)["spec"] == written["Certificate", "greeter"]["spec"]
    wrong = text.replace("rotationPolicy: Always", "rotationPolicy: Sometimes")
    with pytest.raises(AssertionError, match=r"spec\.privateKey\.rotationPolicy"):
        extended.kubectl("apply", "-f", "-", stdin=wrong)


def test_nobody_of_the_static_greeters_may_ask_the_api_server(plane: ControlPlane) -> None:
    for folder in ("greeter-static", "greeter-static-headless"):
        found = kustomized(plane, ROOT / "deploy" / folder)
        assert {kind for kind, _ in found} == {
            "Deployment",
            "NetworkPolicy",
            "PodDisruptionBudget",
            "Service",
        }
        for name in ("greeter", "greeter-client"):
            spec = pod_of(found["Deployment", name])["spec"]
            assert spec["automountServiceAccountToken"] is False
            assert "serviceAccountName" not in spec
    assert found["Service", "greeter"]["spec"]["clusterIP"] == "None"


def test_an_overlay_of_ones_own_sets_namespace_and_image(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    # Kustomize takes relative paths only.
    base = Path("/".join([".."] * len(tmp_path.resolve().parts[1:]))) / ROOT.relative_to("/")
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": [str(base / "deploy/greeter-self-register")],
        "images": [{"name": "pymicro-greeter", "newName": "example.com/greeter", "newTag": "7"}],
    }
    (tmp_path / "kustomization.yaml").write_text(json.dumps(overlay))
    found = kustomized(plane, tmp_path)
    for (kind, name), document in found.items():
        # To the policy too, which is of the whole cluster: kustomize does not know better, and the API
        # server does not mind.
        assert document["metadata"]["namespace"] == namespace, (kind, name)
        if kind == "Deployment":
            assert pod_of(document)["spec"]["containers"][0]["image"] == "example.com/greeter:7"
    done = plane.kubectl("apply", "-k", str(tmp_path), "--dry-run=server", "--validate=strict")
    assert done.stderr == ""


# Evictions


class Evicted:
    """The greeters of deploy/greeter, whose status the test writes in the place of a kubelet."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.namespace = plane.namespace()
        plane.kubectl("-n", self.namespace, "apply", "-k", str(ROOT / "deploy/greeter"))
        eventually("there are three greeters", lambda: len(self.pods()) == 3)
        self.serve()

    def pods(self) -> list[dict[str, Any]]:
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        items = self.plane.api.get(path, labelSelector="app.kubernetes.io/name=greeter")["items"]
        return [{"apiVersion": "v1", "kind": "Pod", **item} for item in items]

    def serve(self) -> None:
        """All run and are ready."""
        for number, each in enumerate(self.pods()):
            running = {"phase": "Running", "podIP": f"10.0.0.{number + 1}"}
            pods.set_status(self.plane.api, each, running)
            pods.set_ready(self.plane.api, each, True)
        self.wait_for_budget(healthy=3, allowed=1)

    def wait_for_budget(self, *, healthy: int, allowed: int) -> None:
        path = f"/apis/policy/v1/namespaces/{self.namespace}/poddisruptionbudgets/greeter"

        def counted() -> bool:
            status = self.plane.api.get(path).get("status", {})
            return (status.get("currentHealthy"), status.get("disruptionsAllowed")) == (healthy, allowed)

        eventually(f"of {healthy} healthy pods {allowed} may be evicted", counted)

    def set_policy(self, policy: str) -> None:
        """Of evicting pods that are not ready; once the controller knows it."""
        path = f"/apis/policy/v1/namespaces/{self.namespace}/poddisruptionbudgets/greeter"
        changes = {"spec": {"unhealthyPodEvictionPolicy": policy}}
        self.plane.api.patch(path, changes, kind="application/merge-patch+json")

        def known() -> bool:
            budget = self.plane.api.get(path)
            return bool(budget["status"]["observedGeneration"] == budget["metadata"]["generation"])

        eventually("the budget is processed", known)

    def evict(self, pod: dict[str, Any]) -> str:
        """Ask for it, as `kubectl drain` does; why not, or nothing."""
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod["metadata"]["name"]},
        }
        try:
            self.plane.api.post(f"{pods.path(pod)}/eviction", eviction)
        except Refused as exc:
            # Whoever drains a machine tries again after a 429, and only then.
            if exc.status != 429:
                raise
            return str(exc)
        return ""


@pytest.fixture
def evicted(controlled: ControlPlane) -> Iterator[Evicted]:
    made = Evicted(controlled)
    yield made
    controlled.kubectl("delete", "namespace", made.namespace, "--wait=false")


def test_machines_that_are_drained_take_one_greeter_at_a_time(evicted: Evicted) -> None:
    first, second, third = evicted.pods()
    assert evicted.evict(first) == ""
    # Whether or not the controller has counted anew.
    assert "disruption budget" in evicted.evict(second)
    assert "disruption budget" in evicted.evict(third)
    names = [first["metadata"]["name"]]
    eventually("there is another in its place", lambda: len(evicted.pods()) == 3)
    assert not [pod for pod in evicted.pods() if pod["metadata"]["name"] in names]
    evicted.wait_for_budget(healthy=2, allowed=0)
    assert "disruption budget" in evicted.evict(second)
    # The new one serves.
    evicted.serve()
    assert evicted.evict(second) == ""


def test_a_greeter_that_is_not_ready_keeps_no_machine_from_being_drained(evicted: Evicted) -> None:
    broken, also_broken, serving = evicted.pods()
    for pod in (broken, also_broken):
        pods.set_ready(evicted.plane.api, pod, False)
    evicted.wait_for_budget(healthy=1, allowed=0)
    # What a budget without the field does: a pod that never gets ready blocks the drain for ever.
    evicted.set_policy("IfHealthyBudget")
    assert "disruption budget" in evicted.evict(broken)
    evicted.plane.kubectl("-n", evicted.namespace, "apply", "-k", str(ROOT / "deploy/greeter"))
    assert evicted.evict(broken) == ""
    assert evicted.evict(also_broken) == ""
    assert "disruption budget" in evicted.evict(serving)
