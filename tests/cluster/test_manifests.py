"""The manifests of deploy/ and of `pymicro manifest`, as a real API server takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pymicro.cli.manifests import Deployed, render
from tests.cluster.plane import ControlPlane
from tests.processes import ROOT

pytestmark = pytest.mark.cluster

FOLDERS = sorted(path.parent.name for path in (ROOT / "deploy").glob("*/kustomization.yaml"))
# https://kubernetes.io/docs/concepts/security/pod-security-standards/
RESTRICTED = "pod-security.kubernetes.io/warn=restricted"


def greeter(**changes: Any) -> str:
    plan = Deployed(service="greeter", version="1.0.0", target="server.py", **changes)
    return render(plan)


@pytest.fixture
def strict(plane: ControlPlane, namespace: str) -> str:
    """A namespace in which pods that may do more than they should are warned of."""
    plane.kubectl("label", "namespace", namespace, RESTRICTED)
    return namespace


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


def test_nobody_of_the_static_greeters_may_ask_the_api_server(plane: ControlPlane) -> None:
    for folder in ("greeter-static", "greeter-static-headless"):
        found = kustomized(plane, ROOT / "deploy" / folder)
        assert {kind for kind, _ in found} == {"Deployment", "PodDisruptionBudget", "Service"}
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
