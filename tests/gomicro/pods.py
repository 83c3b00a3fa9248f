"""Peers as pods of the tests' cluster: Deployments whose settings are the same in either language."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.cluster.cluster import Cluster, PodView
from tests.gomicro.peers import Caller, Object, go_caller, go_server, python_caller, python_server

# Where a container finds its image.
APP = "/app"
IMAGE = "peer"

COMMANDS = {"go": go_server(APP), "python": python_server()}


def deployment(name: str, service: str, language: str, replicas: int = 1, **env: str) -> Object:
    """A server's Deployment, as for go-micro: no labels that pymicro would look for, its variables only.

    Only image and command differ by the language, and the readiness probe, for which a go-micro service
    has nothing to answer with.
    """
    container = {
        "name": "main",
        "image": f"{IMAGE}:dev",
        "command": COMMANDS[language],
        "env": [
            {"name": "PYTHONPATH", "value": APP},
            {"name": "MICRO_REGISTRY", "value": "kubernetes"},
            {"name": "MICRO_SERVER_NAME", "value": service},
            {"name": "MICRO_SERVER_ADDRESS", "value": ":8080"},
            {"name": "MICRO_SERVER_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            *({"name": key, "value": value} for key, value in env.items()),
        ],
        "ports": [{"containerPort": 8080}],
    }
    if language == "python":
        container["readinessProbe"] = {"grpc": {"port": 8080}, "periodSeconds": 1}
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                # What the admission policy of deploy/rbac-self-register lets it register.
                "metadata": {"labels": labels, "annotations": {"micro.mu/self-register": service}},
                "spec": {
                    "serviceAccountName": "pymicro-self-register",
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": 30,
                    "containers": [container],
                },
            },
        },
    }


@dataclass
class Pods:
    """A namespace with the rights that peers need."""

    cluster: Cluster
    namespace: str
    _callers: list[Caller] = field(default_factory=list)

    def deploy(self, name: str, service: str, language: str, replicas: int = 1, **env: str) -> list[PodView]:
        """Apply a Deployment and wait for its pods."""
        self.apply(deployment(name, service, language, replicas, **env))
        return self.cluster.wait_for_pods(self.namespace, f"app={name}", replicas)

    def apply(self, manifest: Object) -> None:
        """`kubectl apply`."""
        self.cluster.plane.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=json.dumps(manifest))

    def host(self) -> PodView:
        """A pod in which callers are started; it does nothing itself."""
        found = self.cluster.pods(self.namespace, "app=callers")
        if found:
            return found[0]
        manifest = deployment("callers", "callers", "go")
        pod = manifest["spec"]["template"]["spec"]
        pod["containers"][0]["command"] = ["sleep", "infinity"]
        pod["terminationGracePeriodSeconds"] = 0
        self.apply(manifest)
        return self.cluster.wait_for_pods(self.namespace, "app=callers", 1)[0]

    def go_caller(self) -> Caller:
        """A client in Go, as `kubectl exec` would start it."""
        return self._caller("the Go client in a pod", go_caller(APP))

    def python_caller(self, name: str) -> Caller:
        """A client in Python that calls itself so."""
        return self._caller("the Python client in a pod", python_caller(), MICRO_SERVER_NAME=name)

    def _caller(self, title: str, argv: list[str], **env: str) -> Caller:
        prefix, environment = self.cluster.entering(self.host())
        caller = Caller(title, [*prefix, *argv], {**environment, **env})
        self._callers.append(caller)
        return caller

    def close(self) -> None:
        """End what was started in it."""
        for caller in self._callers:
            caller.close()
        self.cluster.plane.kubectl("delete", "namespace", self.namespace, "--wait=false")


@contextlib.contextmanager
def namespace(cluster: Cluster) -> Iterator[Pods]:
    """A namespace in which pods may register themselves and see each other."""
    name = cluster.plane.namespace()
    cluster.apply("deploy/rbac-self-register", name)
    pods = Pods(cluster, name)
    try:
        yield pods
    finally:
        pods.close()
