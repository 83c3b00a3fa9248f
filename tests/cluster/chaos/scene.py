"""Ten victims, a stranger and two clients in a namespace, for all tests of trouble with pods."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.cluster.chaos.account import Account, failed, none
from tests.cluster.cluster import ROOT, Cluster, PodView
from tests.cluster.plane import eventually

PODS = 10
# Of each client, a second.
RATE = 45.0
# Everything else about them is as they are without being told anything.
CLIENTS = {
    "round-robin": {"MICRO_BALANCER": "round_robin"},
    "p2c": {"MICRO_BALANCER": "p2c"},
}


def selector(name: str) -> str:
    """Of the pods of a Deployment."""
    return f"app.kubernetes.io/name={name}"


@dataclass(slots=True)
class Scene:
    """What runs, and the account of it."""

    cluster: Cluster
    namespace: str
    account: Account

    @classmethod
    def start(cls, cluster: Cluster, namespace: str) -> Scene:
        """Wait until every client has got answers of every victim."""
        scene = cls(cluster, namespace, Account(cluster.folder / "logs" / namespace))
        cluster.apply("deploy/rbac", namespace)
        victim = ["python", "-m", "tests.cluster.chaos.victim"]
        stranger = ["python", "-m", "pymicro", "run", "/app/server.py"]
        scene.apply(
            serving("victim", PODS, victim),
            serving("greeter", 1, stranger),
            *(calling(name, settings) for name, settings in CLIENTS.items()),
        )
        cluster.wait_for_pods(namespace, selector("greeter"), 1)
        scene.settle()
        return scene

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """`kubectl apply`."""
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.cluster.plane.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=document)

    def settle(self) -> list[PodView]:
        """Wait until both clients get answers of all victims, and nothing fails; they are returned."""
        pods = self.cluster.wait_for_pods(self.namespace, selector("victim"), PODS)
        ready, all_of_them = time.time(), {address(pod) for pod in pods}

        def calm() -> bool:
            self.account.read()
            recent = self.account.of(since=max(ready, time.time() - 2.0))
            return not failed(recent) and all(
                {call.node for call in recent if call.client == client} == all_of_them for client in CLIENTS
            )

        try:
            eventually("both clients get answers of all pods", calm, 30.0)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.said()}") from None
        return pods

    def pass_calls(self, count: int, since: float | None = None) -> None:
        """Wait until each client has seen so many calls end that it began since then, or from now on."""
        moment = time.time() if since is None else since

        def ended() -> bool:
            self.account.read()
            return all(len(self.account.of(client, since=moment)) >= count for client in CLIENTS)

        eventually(f"{count} calls of each client end", ended, 10.0 + 2 * count / RATE)

    def end_calls(self) -> None:
        """Wait until all calls that have been begun until now have ended, however long that takes."""
        now = time.time()

        def ended(client: str) -> bool:
            numbers = {call.number: call.begun for call in self.account.of(client)}
            later = [number for number, begun in numbers.items() if begun >= now]
            return bool(later) and all(number in numbers for number in range(min(later)))

        def all_ended() -> bool:
            self.account.read()
            return all(map(ended, CLIENTS))

        eventually("all calls end", all_ended, 10.0)

    def busiest(self, pods: Sequence[PodView]) -> PodView:
        """One of these on which calls of both kinds have just begun."""

        def found() -> PodView | None:
            self.account.read()
            now = time.time()
            for pod in pods:
                fresh = [run for run in self.account.in_flight(pod.name) if now - run.at < 0.04]
                if {run.call.split("/")[1] for run in fresh} == {"plain", "marked"}:
                    return pod
            return None

        pod: PodView = eventually("a pod has calls of both kinds in flight", found, 20.0)
        return pod

    def stop(self) -> None:
        """No new calls. Every call that was begun has been accounted for, and no unmarked one ran twice."""
        for name in CLIENTS:
            self.cluster.scale(self.namespace, name, 0)

        def ended() -> bool:
            self.account.read()
            return len(self.account.sent) == len(CLIENTS)

        eventually("the clients have ended", ended, 20.0)
        self.account.read()  # what pods wrote while the clients' last lines were read
        assert len({call.id for call in self.account.calls}) == len(self.account.calls)
        assert len(self.account.calls) == sum(self.account.sent.values())
        none("were answered and ran nowhere", [c for c in self.account.calls if c.code == "OK" and not c.ran])
        none("are unmarked and ran twice", [c for c in self.account.calls if not c.marked and len(c.ran) > 1])

    def said(self) -> str:
        """What the clients logged last."""
        lines = []
        for name in CLIENTS:
            output = self.cluster.output(self.namespace, rf"{name}-")
            own = [line for line in output.splitlines() if not line.startswith("{")]
            lines += [f"--- {name}", *own[-20:]]
        return "\n".join(lines)


def address(pod: PodView) -> str:
    """As clients call it."""
    return f"{pod.ip}:8080"


def serving(name: str, replicas: int, command: Sequence[str]) -> dict[str, Any]:
    """A Deployment as `pymicro manifest` writes it, as far as it matters here."""
    probe = {"grpc": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 1}
    container = {
        "command": command,
        "ports": [{"name": "grpc", "containerPort": 8080}],
        "startupProbe": {**probe, "failureThreshold": 60},
        # A pod that falls silent is not told of by its probe: clients have to see for themselves.
        "readinessProbe": {**probe, "failureThreshold": 60},
    }
    labels = {"micro.mu/type": "service", f"micro.mu/selector-{name}": "service"}
    annotations = {"micro.mu/metadata-keepalive": "10s"}
    spec = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 30}
    settings = {"MICRO_REGISTRY_ADVERTISE": "labels"}
    made = deployment(name, replicas, container, settings, spec, labels, annotations)
    # Three at a time: one at a time takes longer and shows no more.
    made["spec"]["strategy"] = {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 3}}
    return made


def calling(name: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """A Deployment of one client."""
    command = ["python", "-m", "tests.cluster.chaos.caller", name, f"--rate={RATE}"]
    spec = {"serviceAccountName": "pymicro-client", "terminationGracePeriodSeconds": 15}
    return deployment(name, 1, {"command": command}, settings, spec)


def deployment(
    name: str,
    replicas: int,
    container: Mapping[str, Any],
    settings: Mapping[str, str],
    spec: Mapping[str, Any],
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What both kinds have in common."""
    own = {"app.kubernetes.io/name": name}
    fields = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "POD_IP": "status.podIP"}
    # The checkout is in every container at its own path.
    given = {"PYTHONPATH": f"/app:{ROOT}", "MICRO_REGISTRY": "kubernetes", **settings}
    env: list[dict[str, Any]] = [
        *({"name": key, "value": value} for key, value in given.items()),
        *({"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in fields.items()),
    ]
    pod = {
        "enableServiceLinks": False,
        "containers": [{"name": "main", "image": "pymicro-greeter:dev", "env": env, **container}],
        **spec,
    }
    meta = {"labels": {**own, **(labels or {})}, "annotations": dict(annotations or {})}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": own},
            "template": {"metadata": meta, "spec": pod},
        },
    }
