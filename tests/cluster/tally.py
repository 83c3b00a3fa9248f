"""Load on the greeter from pods (load.py), and what it came to."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.cluster import ROOT, Cluster
from tests.cluster.plane import eventually

NAME = "load"


@dataclass(frozen=True)
class Failure:
    """A call that failed; times of `time.time()`."""

    begun: float
    ended: float
    node: str
    status: str
    text: str


@dataclass
class Tally:
    """What calls came to.

    Attributes:
        clients: Processes that called.
        nodes: Answered calls by the address of the node.
        longest_gap: Longest time in which one client got no answer, in seconds.
        begun: Since when, as `time.time()`.
        ended: Until when calls were begun.
    """

    clients: int = 0
    nodes: Counter[str] = field(default_factory=Counter)
    long: int = 0
    failures: list[Failure] = field(default_factory=list)
    longest_gap: float = 0.0
    chats: Counter[str] = field(default_factory=Counter)
    begun: float = 0.0
    ended: float = 0.0

    @property
    def calls(self) -> int:
        """All calls that ended, well or not."""
        return self.nodes.total() + len(self.failures)

    @property
    def rate(self) -> float:
        """Calls a second, of all clients together."""
        return self.calls / (self.ended - self.begun)

    @property
    def ips(self) -> set[str]:
        """The pods that answered."""
        return {node.rpartition(":")[0] for node in self.nodes}

    def describe(self) -> str:
        """The figures in one line."""
        chats = f"; chats: {self.chats['drained']} ended by draining, {self.chats['broken']} broken"
        long = self.long / max(self.calls, 1)
        return (
            f"{self.calls} calls ({self.rate:.0f}/s from {self.clients} clients,"
            f" {long:.1%} longer than 200 ms), {len(self.failures)} failed, {len(self.nodes)} nodes seen,"
            f" longest gap {self.longest_gap * 1000:.0f} ms{chats if self.chats else ''}"
        )


class Load:
    """A Deployment of load.py in a namespace where the greeter is.

    Args:
        account: The service account of its pods.
        settings: Environment variables of pymicro's.
        name: Of the Deployment.
        secret: A Secret with certificates, which is shown at `/tls`; empty for none.
        waited_for: Seconds that a new pod runs before the old one is stopped, when they are replaced.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        *,
        clients: int = 2,
        rate: float = 100.0,
        streams: int = 0,
        patient: bool = False,
        account: str = "pymicro-client",
        settings: dict[str, str],
        name: str = NAME,
        secret: str = "",
        waited_for: int = 0,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self.clients = clients
        self.name = name
        arguments = [f"--rate={rate}", f"--streams={streams}", *(["--patient"] if patient else [])]
        self._stopped = float("inf")
        self._arguments, self._account, self._waited_for = arguments, account, waited_for
        self._manifest = self._made(settings, secret)
        # Pods, those that were replaced included.
        self._started = 0

    def _made(self, settings: dict[str, str], secret: str) -> dict[str, Any]:
        made = manifest(self.name, self.clients, self._arguments, self._account, settings, secret)
        made["spec"]["minReadySeconds"] = self._waited_for
        return made

    def change(self, settings: dict[str, str], secret: str = "") -> None:
        """Replace the clients by others with these settings, and wait until those have got answers."""
        self._manifest = self._made(settings, secret)
        self.start()
        deployment = f"deployment/{self.name}"
        self._cluster.plane.kubectl("rollout", "status", "-n", self._namespace, deployment, timeout=90.0)

    def start(self) -> None:
        """Wait until every client has got answers."""
        self._started += self.clients
        self._cluster.plane.kubectl(
            "apply", "-n", self._namespace, "-f", "-", stdin=json.dumps(self._manifest)
        )

        def calling() -> bool:
            reports = self._reports()
            return len(reports) == self._started and all(
                any(line["nodes"] for line in lines) for lines in reports
            )

        try:
            eventually("all clients get answers", calling, 60.0)
        except AssertionError as exc:
            raise AssertionError(f"{exc}:\n{self.output()}\n{self._cluster.kubelet_log()}") from None

    def stop(self) -> None:
        """No new calls; wait for those in flight."""
        self._stopped = time.time()
        self._cluster.scale(self._namespace, self.name, 0)
        eventually(
            "all clients have printed their last report",
            lambda: all(lines and lines[-1]["done"] for lines in self._reports()),
            30.0,
        )

    def tally(self, since: float = 0.0, until: float = float("inf")) -> Tally:
        """What calls of the reports printed in some time came to; whole seconds, so rough at the edges."""
        found = Tally()
        times: list[float] = []
        for lines in self._reports():
            found.clients += 1
            chosen = [line for line in lines if since < line["time"] <= until]
            times += [line["time"] for line in chosen]
            for line in chosen:
                found.nodes.update(line["nodes"])
                found.long += line["long"]
                found.failures += [Failure(*failure) for failure in line["failures"]]
                found.longest_gap = max(found.longest_gap, line["gap"])
                found.chats.update(line["chats"])
        if times:
            # Each report tells of the second before it.
            found.begun, found.ended = min(times) - 1.0, min(max(times), self._stopped)
        return found

    @property
    def newest(self) -> list[dict[str, Any]]:
        """The last report of each client that has not ended."""
        return [lines[-1] for lines in self._reports() if lines and not lines[-1]["done"]]

    def output(self) -> str:
        """All that the clients printed."""
        return self._cluster.output(self._namespace, rf"{self.name}-")

    def _reports(self) -> list[list[dict[str, Any]]]:
        """The reports of each client."""
        folder = self._cluster.folder / "logs" / self._namespace
        found = []
        for file in folder.glob(f"{self.name}-*.log"):
            lines = [line for line in file.read_text().splitlines() if line.startswith('{"time"')]
            # The last may be half written.
            found.append([json.loads(line) for line in lines if line.endswith("}")])
        return found


def manifest(
    name: str, clients: int, arguments: Sequence[str], account: str, settings: dict[str, str], secret: str
) -> dict[str, Any]:
    """Like the client of deploy/greeter, but with this program."""
    env: list[dict[str, Any]] = [
        {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "PYTHONPATH", "value": "/app"},
        *({"name": name, "value": value} for name, value in settings.items()),
    ]
    container: dict[str, Any] = {
        "name": "load",
        # The checkout is in every container at its own path.
        "image": "pymicro-greeter:dev",
        "command": ["python", str(ROOT / "tests" / "cluster" / "load.py"), *arguments],
        "env": env,
    }
    labels = {"app.kubernetes.io/name": name}
    pod: dict[str, Any] = {
        "serviceAccountName": account,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 15,
        "containers": [container],
    }
    if secret:
        pod["volumes"] = [{"name": "tls", "secret": {"secretName": secret}}]
        container["volumeMounts"] = [{"name": "tls", "mountPath": "/tls", "readOnly": True}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": clients,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
