"""`pymicro doctor greeter`, run in the client's pod: six broken states, each told by its cause.

The greeters are as in deploy/greeter, but for a readiness that the tests control. Each test mends what it
broke.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.cluster import Cluster, PodView
from tests.cluster.plane import eventually

pytestmark = pytest.mark.cluster

GREETER = "app.kubernetes.io/name=greeter"
CLIENT = "app.kubernetes.io/name=greeter-client"

Object = dict[str, Any]


class Clinic:
    """A namespace with three greeters and a client."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        cluster.apply("tests/cluster/gated", namespace)
        self.greeters = cluster.wait_for_running(namespace, GREETER, 3)
        [self.client] = cluster.wait_for_running(namespace, CLIENT, 1)
        for greeter in self.greeters:
            self.set_ready(greeter, True)

    def kubectl(self, *arguments: str) -> None:
        self.cluster.plane.kubectl("-n", self.namespace, *arguments)

    def set_ready(self, pod: PodView, ready: bool) -> None:
        """Change its readiness gate, and wait for what follows."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod.name}/status"
        condition = {"type": "tests/open", "status": str(ready)}
        self.cluster.plane.api.patch(path, {"status": {"conditions": [condition]}})

        def changed() -> bool:
            return all(p.ready == ready for p in self.cluster.pods(self.namespace) if p.uid == pod.uid)

        eventually(f"{pod.name} is{'' if ready else ' not'} ready", changed)

    @contextmanager
    def another(self, change: Callable[[Object], None]) -> Iterator[PodView]:
        """A ready pod like a greeter's, but without probes and with some change to its container."""
        api = self.cluster.plane.api
        raw = api.get(f"/api/v1/namespaces/{self.namespace}/pods/{self.greeters[0].name}")
        spec = copy.deepcopy(raw["spec"])
        for key in ("nodeName", "readinessGates"):
            del spec[key]
        [container] = spec["containers"]
        for key in ("startupProbe", "readinessProbe", "livenessProbe"):
            del container[key]
        change(container)
        labels = raw["metadata"]["labels"] | {"tests/role": "another"}
        # No part of the Deployment.
        del labels["pod-template-hash"]
        meta = {"name": "another", "labels": labels}
        api.post(
            f"/api/v1/namespaces/{self.namespace}/pods",
            {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec},
        )
        try:
            [pod] = self.cluster.wait_for_pods(self.namespace, "tests/role=another", 1)
            yield pod
        finally:
            api.delete(f"/api/v1/namespaces/{self.namespace}/pods/another", grace=0)

    def examine(self) -> list[tuple[str, str, str]]:
        """The problems that doctor finds: what was looked at, what was found, what to do."""
        command = ("python", "-m", "pymicro", "doctor", "greeter", "-o", "json")
        done = self.cluster.execute(self.client, *command)
        assert done.stderr == ""
        answer = json.loads(done.stdout)
        found = [
            (finding["check"], finding["text"], finding["fix"])
            for finding in answer["findings"]
            if finding["level"] == "problem"
        ]
        assert (done.returncode, answer["ok"]) == ((1, False) if found else (0, True))
        return found

    def texts(self) -> str:
        """The same as lines."""
        return "\n".join(": ".join(problem) for problem in self.examine())


@pytest.fixture(scope="module")
def clinic(cluster: Cluster) -> Iterator[Clinic]:
    namespace = cluster.plane.namespace()
    yield Clinic(cluster, namespace)
    cluster.plane.kubectl("delete", "namespace", namespace, "--wait=false")


def test_all_is_well(clinic: Clinic) -> None:
    assert clinic.examine() == []


def test_missing_rights_are_told_with_the_rule_to_add(clinic: Clinic) -> None:
    clinic.kubectl("delete", "rolebinding", "pymicro-discovery")
    try:
        said = clinic.texts()
    finally:
        clinic.cluster.apply("deploy/rbac", clinic.namespace)
    account = f"system:serviceaccount:{clinic.namespace}:pymicro-client"
    assert account in said
    assert f"may not list pods in namespace {clinic.namespace}" in said
    assert f"may not watch pods in namespace {clinic.namespace}" in said
    assert 'resources: ["pods"]' in said


def test_a_missing_label_is_told(clinic: Clinic) -> None:
    clinic.kubectl("label", "pods", "-l", GREETER, "micro.mu/selector-greeter-")
    try:
        said = clinic.texts()
    finally:
        clinic.kubectl("label", "pods", "-l", GREETER, "micro.mu/selector-greeter=service")
    for greeter in clinic.greeters:
        assert f"pod {greeter.name}: label missing" in said
    assert "micro.mu/selector-greeter: service" in said


def test_a_pod_that_is_not_ready_is_told(clinic: Clinic) -> None:
    for greeter in clinic.greeters:
        clinic.set_ready(greeter, False)
    try:
        said = clinic.texts()
    finally:
        for greeter in clinic.greeters:
            clinic.set_ready(greeter, True)
    for greeter in clinic.greeters:
        assert f"pod {greeter.name}: does not count: it is not ready (ReadinessGatesNotReady)" in said


def test_a_port_of_another_name_is_told(clinic: Clinic) -> None:
    with clinic.another(lambda container: container["ports"][0].update(name="http")):
        [(check, text, fix)] = clinic.examine()
    assert check == "pod another"
    assert "no port of its containers is named grpc" in text
    assert "- name: grpc" in fix


def test_a_hostile_annotation_is_told(clinic: Clinic) -> None:
    victim = clinic.greeters[0]
    record = {"name": "greeter", "nodes": [{"id": "greeter-1", "address": "10.244.0.1", "port": 8080}]}
    clinic.kubectl("annotate", "pod", victim.name, f"micro.mu/service-greeter={json.dumps(record)}")
    try:
        [(check, text, _)] = clinic.examine()
    finally:
        clinic.kubectl("annotate", "pod", victim.name, "micro.mu/service-greeter-")
    assert check == f"pod {victim.name}"
    assert "10.244.0.1" in text


def test_a_dead_process_is_told(clinic: Clinic) -> None:
    # No probe, so Kubernetes says ready, and nobody listens.
    with clinic.another(lambda container: container.update(command=["sleep", "1000"])) as dead:
        [(check, text, _)] = clinic.examine()
    assert check == f"node {dead.ip}:8080"
    assert "connection refused" in text
