"""deploy/greeter as it is, on a cluster: a client that knows a name and finds the pods."""

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


def test_the_client_of_deploy_greeter_spreads_its_calls_over_all_pods(
    cluster: Cluster, pods_namespace: str
) -> None:
    cluster.apply("deploy/greeter", pods_namespace)
    pods = cluster.wait_for_pods(pods_namespace, GREETER, 3)

    def greeted() -> list[str]:
        return re.findall(r"^Hello .* \((.*):8080, pid 1\)$", client_output(), re.MULTILINE)

    def client_output() -> str:
        return cluster.output(pods_namespace, "greeter-client-")

    known = len(eventually("the client has seen all pods", lambda: len(set(greeted())) == 3 and greeted()))
    # Of two equal pods p2c takes the one that was called longer ago: each has its turn before long.
    addresses = {pod.ip for pod in pods}
    eventually("it goes on with all of them", lambda: set(greeted()[known:]) == addresses)


def test_pods_that_come_get_calls_and_pods_that_go_fail_none(
    cluster: Cluster, pods_namespace: str, say: Callable[[str], None]
) -> None:
    cluster.apply("deploy/greeter", pods_namespace)
    before = {pod.ip for pod in cluster.wait_for_pods(pods_namespace, GREETER, 3)}
    load = Load(cluster, pods_namespace, rate=60.0, settings={"MICRO_REGISTRY": "kubernetes"})
    load.start()

    cluster.scale(pods_namespace, "greeter", 6)
    more = {pod.ip for pod in cluster.wait_for_pods(pods_namespace, GREETER, 6)}
    grown = time.time()
    eventually("the new ones are called", lambda: load.tally(since=grown).ips >= more - before, 10.0)

    cluster.scale(pods_namespace, "greeter", 2)
    eventually(
        "four pods leave", lambda: sum(pod.leaving for pod in cluster.pods(pods_namespace, GREETER)) == 4
    )
    leaving = time.time()
    left = {pod.ip for pod in cluster.wait_for_pods(pods_namespace, GREETER, 2)}
    load.stop()

    tally = load.tally()
    say(f"scaled 3 → 6 → 2: {tally.describe()}")
    assert tally.failures == []
    assert tally.ips == more | before
    # A report tells of the second before it, a long call ends up to 0.4 s after its start, and a
    # deletion is seen within a second: after that nobody who leaves gets a call, though it still serves.
    assert load.tally(since=leaving + 2.5).ips == left
