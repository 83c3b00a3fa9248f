"""Peers as pods of the tests' cluster: Deployments whose settings are the same in either language."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.cluster.cluster import Cluster, PodView
from tests.cluster.plane import eventually
from tests.gomicro.peers import (
    Caller,
    Object,
    go_caller,
    go_server,
    python_caller,
    python_server,
    transport,
)

# Where a container finds its image.
APP = "/app"
IMAGE = "peer"
# Of all peers of a namespace.
ACCOUNT = "peer"

COMMANDS = {"go": go_server(APP), "python": python_server()}


def deployment(name: str, service: str, language: str, replicas: int = 1, **env: str) -> Object:
    """A server's Deployment, as for go-micro: no labels that pymicro would look for, its variables only.

    Only image and command differ by the language, and the readiness probe, for which a go-micro service
    has nothing to answer with.
    """
    if language == "python":
        env = {**transport(), **env}
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
                    "serviceAccountName": ACCOUNT,
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

    def apply(self, manifest: Object) -> None:
        """`kubectl apply`."""
        self.cluster.plane.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=json.dumps(manifest))

    def wait(self, name: str, count: int) -> list[PodView]:
        """A Deployment's pods, once there are so many, and nothing else of it."""
        return self.cluster.wait_for_pods(self.namespace, f"app={name}", count)

    def server(self, language: str, service: str, ident: str, **env: str) -> PodServer:
        """A server in a Deployment of its own, once it is registered."""
        name = f"{service.rpartition('.')[2]}-{ident}"
        self.apply(deployment(name, service, language, **env))
        (pod,) = self.wait(name, 1)
        node = f"{service}-{pod.name}" if language == "go" else pod.name
        server = PodServer(self, service, node, f"{pod.ip}:8080", name)
        eventually(f"{node} is registered", lambda: node in server.record())
        return server

    def expose(self, name: str, deployment: str) -> None:
        """Make a Service of a Deployment's pods and wait until it has one."""
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name},
                "spec": {"selector": {"app": deployment}, "ports": [{"port": 8080}]},
            }
        )
        self.cluster.plane.wait_for_endpoints(self.namespace, name, 1)

    def run(self, *argv: str) -> str:
        """Run `pymicro …` in a pod to its end; what it printed."""
        of_ours = {"MICRO_REGISTRY": "kubernetes", **transport()}
        settings = ("env", *(f"{key}={value}" for key, value in of_ours.items()))
        done = self.cluster.execute(self.host(), *settings, sys.executable, "-m", "pymicro", *argv)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

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
        return self.wait("callers", 1)[0]

    def go_caller(self, **env: str) -> Caller:
        """A client in Go, as `kubectl exec` would start it."""
        return self._caller("the Go client in a pod", go_caller(APP), **env)

    def python_caller(self, name: str, **env: str) -> Caller:
        """A client in Python that calls itself so."""
        env = {**transport(), **env}
        return self._caller("the Python client in a pod", python_caller(), MICRO_SERVER_NAME=name, **env)

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


@dataclass
class PodServer:
    """A server that runs as the only pod of a Deployment.

    Attributes:
        deployment: Its name.
    """

    pods: Pods
    name: str
    node: str
    address: str
    deployment: str

    def pod(self) -> PodView:
        """It, as it is now."""
        (found,) = self.pods.cluster.pods(self.pods.namespace, f"app={self.deployment}")
        return found

    def record(self) -> str:
        """What is written on the pod for its service, in go-micro's form; empty without one."""
        path = f"/api/v1/namespaces/{self.pods.namespace}/pods/{self.pod().name}"
        annotations = self.pods.cluster.plane.api.get(path)["metadata"]["annotations"]
        return str(annotations.get(f"micro.mu/service-{self.name}", ""))

    def touch(self) -> None:
        """Change something on the pod that means nothing."""
        path = f"/api/v1/namespaces/{self.pods.namespace}/pods/{self.pod().name}"
        self.pods.cluster.plane.api.patch(path, {"metadata": {"annotations": {"touched": str(time.time())}}})

    def stop(self) -> None:
        """Delete the pod and wait until it is gone."""
        self.pods.cluster.scale(self.pods.namespace, self.deployment, 0)
        self.pods.wait(self.deployment, 0)

    def kill(self) -> None:
        """SIGKILL; the kubelet starts the container anew."""
        self.pod().signal(signal.SIGKILL)


@contextlib.contextmanager
def namespace(cluster: Cluster) -> Iterator[Pods]:
    """A namespace in which pods may register themselves and see each other."""
    name = cluster.plane.namespace()
    cluster.apply("deploy/rbac-self-register", name)
    cluster.plane.bind(name, ACCOUNT, "pymicro-self-register")
    pods = Pods(cluster, name)
    try:
        yield pods
    finally:
        pods.close()
