"""What doctor says of the way to a real API server: whom to act as, and whether watches stand."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pymicro.base.findings import Finding
from pymicro.kubernetes.pods import KubernetesRegistry
from pymicro.settings.config import load
from tests.cluster import pods
from tests.cluster.plane import ControlPlane, eventually
from tests.fakes.pods import pod
from tests.kubernetes.hop import hop

pytestmark = pytest.mark.cluster


@contextlib.asynccontextmanager
async def registry(path: str) -> AsyncIterator[KubernetesRegistry]:
    config = load({"registry_address": [f"kubeconfig={path}"]}, environ={})
    async with KubernetesRegistry(config, environ={}) as opened:
        yield opened


async def told(path: str, service: str = "greeter") -> list[Finding]:
    async with registry(path) as opened:
        return [finding async for finding in opened.diagnose(service)]


def problems(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.level == "problem"]


def lead_through(kubeconfig: Path, way: str, *, to: str) -> None:
    """Have its cluster asked through `way`, a URL of plain HTTP that passes TLS on as it is."""
    document = json.loads(kubeconfig.read_text())
    cluster = document["clusters"][0]["cluster"]
    cluster |= {"server": way.replace("http://", "https://"), "tls-server-name": urlsplit(to).hostname}
    kubeconfig.write_text(json.dumps(document))


async def test_rights_are_those_of_the_account_that_is_acted_as(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    plane.service_account(namespace, "actor")
    plane.account(namespace, "reader", verbs="list,watch", resource="pods")
    pods.create(plane.api, pod("one", "10.0.0.1", namespace=namespace, labels=pods.SERVICE))
    reader = f"system:serviceaccount:{namespace}:reader"
    user = {"token": plane.token_for(namespace, "actor"), "as": reader}
    path = plane.kubeconfig_for(tmp_path / "config", user, namespace=namespace)

    found = await told(path)
    (refused,) = problems(found)
    assert found[-1] is refused
    assert refused.check == "as"
    # Of a resource (Kubernetes 1.34), or of what would be asked as the other one (1.37).
    assert "cannot impersonate" in refused.text
    assert f"system:serviceaccount:{namespace}:actor" in refused.text

    # The rule as doctor prints it does it.
    rule = [line for line in refused.fix.splitlines() if not line.startswith("#")]
    assert '  resources: ["serviceaccounts"]' in rule
    named = f"{{name: act-{namespace}}}"
    manifest = f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {named}
rules:
{chr(10).join(rule)}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {named}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: act-{namespace}}}
subjects: [{{kind: ServiceAccount, namespace: {namespace}, name: actor}}]
"""
    plane.kubectl("apply", "-f", "-", stdin=manifest)
    asked = {"verb": "impersonate", "resource": "serviceaccounts", "namespace": namespace, "name": "reader"}
    eventually(
        "it may act as the reader",
        lambda: plane.may(f"system:serviceaccount:{namespace}:actor", asked),
        10.0,
    )
    found = await told(path)
    assert problems(found) == []
    assert reader in found[0].text
    assert [one.text for one in found if one.check == "access"] == [
        f"may list pods in namespace {namespace}",
        f"may watch pods in namespace {namespace}",
    ]


async def test_two_ports_named_grpc_in_a_pod_of_two_services(plane: ControlPlane, namespace: str) -> None:
    labels = {**pods.SERVICE, "micro.mu/selector-front": "service"}
    twice = pod("one", "10.0.0.1", namespace=namespace, labels=labels)
    second = {"name": "front", "image": "x", "ports": [{"name": "grpc", "containerPort": 9090}]}
    twice["spec"]["containers"].append(second)
    pods.create(plane.api, twice)
    settings = {"registry_address": [f"kubeconfig={plane.kubeconfig}"], "registry_namespace": [namespace]}
    config = load(settings, environ={})
    async with KubernetesRegistry(config, environ={}) as opened:
        (found,) = problems([finding async for finding in opened.diagnose("front")])
    assert found.check == "pod one"
    assert "perhaps wrongly" in found.text
    assert "micro.mu/port-front" in found.fix


async def test_a_watch_stands_unless_something_on_the_way_cuts_it(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    plane.account(namespace, "reader", verbs="list,watch", resource="pods")
    user = {"token": plane.token_for(namespace, "reader")}
    path = Path(plane.kubeconfig_for(tmp_path / "config", user, namespace=namespace))
    async with registry(str(path)) as opened:
        (found,) = [finding async for finding in opened.endure("greeter", 1.0)]
    assert (found.level, "stood for 1s" in found.text) == ("ok", True)

    async with hop(plane.url, cuts=1.5) as way:
        lead_through(path, way, to=plane.url)
        async with registry(str(path)) as opened:
            (found,) = [finding async for finding in opened.endure("greeter", 60.0)]
    assert found.level == "note"
    assert "was cut after 1." in found.text
