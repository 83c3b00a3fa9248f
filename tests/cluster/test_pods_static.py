"""deploy/greeter-static: through a Kubernetes Service, by DNS, with no word to the API server."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.plane import eventually
from tests.cluster.tally import Load

pytestmark = pytest.mark.cluster

GREETER = "app.kubernetes.io/name=greeter"
# The manifests have a minute: more than a test can wait for.
AGE = "3s"


def load_on(cluster: Cluster, namespace: str) -> Load:
    return Load(cluster, namespace, rate=50.0, account="default", settings={"MICRO_SELECTOR": "static"})


def shorten_connections(cluster: Cluster, namespace: str) -> None:
    """Let servers end connections after `AGE`, and wait until only such servers are there."""
    cluster.plane.kubectl(
        "set", "env", "-n", namespace, "deployment/greeter", f"MICRO_MAX_CONNECTION_AGE={AGE}"
    )
    cluster.plane.kubectl("rollout", "status", "-n", namespace, "deployment/greeter")


def test_a_cluster_ip_is_one_connection_until_it_is_too_old(
    cluster: Cluster, pods_namespace: str, say: Callable[[str], None]
) -> None:
    cluster.apply("deploy/greeter-static", pods_namespace)
    cluster.wait_for_pods(pods_namespace, GREETER, 3)

    def greeted() -> list[str]:
        output = cluster.output(pods_namespace, "greeter-client-")
        return re.findall(r"^Hello .* \((.*):8080, pid 1\)$", output, re.MULTILINE)

    eventually("the client of the manifests gets answers", lambda: len(greeted()) >= 5)
    assert len(set(greeted())) == 1

    shorten_connections(cluster, pods_namespace)
    pods = cluster.wait_for_pods(pods_namespace, GREETER, 3)
    load = load_on(cluster, pods_namespace)
    load.start()
    eventually("calls reach all pods in time", lambda: load.tally().ips == {pod.ip for pod in pods}, 60.0)
    eventually("some more connections come of age", lambda: load.tally().calls > 1000)
    load.stop()
    tally = load.tally()
    say(f"static through a ClusterIP, connections of {AGE}: {tally.describe()}")
    assert tally.failures == []


def test_a_headless_service_is_spread_over_and_followed(
    cluster: Cluster, pods_namespace: str, say: Callable[[str], None]
) -> None:
    cluster.apply("deploy/greeter-static-headless", pods_namespace)
    shorten_connections(cluster, pods_namespace)
    before = {pod.ip for pod in cluster.wait_for_pods(pods_namespace, GREETER, 3)}
    load = load_on(cluster, pods_namespace)
    load.start()
    eventually("calls are spread over all", lambda: load.tally().ips == before, 20.0)

    cluster.scale(pods_namespace, "greeter", 5)
    more = {pod.ip for pod in cluster.wait_for_pods(pods_namespace, GREETER, 5)}
    grown = time.time()
    eventually("pods that came are called", lambda: load.tally(since=grown).ips == more, 30.0)

    cluster.scale(pods_namespace, "greeter", 2)
    left = {pod.ip for pod in cluster.wait_for_pods(pods_namespace, GREETER, 2)}
    gone = time.time()
    eventually("a report of the time after", lambda: load.tally(since=gone + 3.0).calls)
    load.stop()
    tally = load.tally()
    say(f"static through a headless Service, 3 → 5 → 2 pods, connections of {AGE}: {tally.describe()}")
    assert load.tally(since=gone + 1.5).ips == left
    assert tally.failures == []
