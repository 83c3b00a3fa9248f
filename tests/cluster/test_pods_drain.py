"""A machine is drained while calls go on: its greeters leave one at a time, and no call fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.tally import Load

pytestmark = pytest.mark.cluster

GREETER = "app.kubernetes.io/name=greeter"


@pytest.fixture
def machine(cluster: Cluster) -> Iterator[str]:
    """The cluster's only one, which takes pods again afterwards."""
    (node,) = cluster.plane.api.get("/api/v1/nodes")["items"]
    yield node["metadata"]["name"]
    cluster.plane.kubectl("uncordon", node["metadata"]["name"])


def test_no_call_fails_while_a_machine_is_drained(
    cluster: Cluster, pods_namespace: str, machine: str, say: Callable[[str], None]
) -> None:
    cluster.apply("deploy/greeter", pods_namespace)
    before = cluster.wait_for_pods(pods_namespace, GREETER, 3)
    load = Load(
        cluster,
        pods_namespace,
        rate=60.0,
        settings={"MICRO_REGISTRY": "kubernetes", "MICRO_CLIENT_RETRIES": "0"},
    )
    load.start()

    began = time.monotonic()
    # The tests' kubelet takes pods on a machine that is drained, since there is no other.
    with ThreadPoolExecutor(1) as pool:
        draining = pool.submit(
            cluster.plane.kubectl,
            *("drain", machine, f"--pod-selector={GREETER}", "--delete-emptydir-data", "--timeout=150s"),
            timeout=180.0,
        )
        serving = 3
        while not draining.done():
            found = cluster.pods(pods_namespace, GREETER)
            serving = min(serving, sum(pod.ready and not pod.leaving for pod in found))
    drained = draining.result()
    took = time.monotonic() - began
    after = cluster.wait_for_pods(pods_namespace, GREETER, 3)
    load.stop()

    tally = load.tally()
    said = drained.stderr.count("violate the pod's disruption budget")
    say(f"a drain in {took:.0f} s, told to wait {said} times: {tally.describe()}")
    assert {pod.uid for pod in before}.isdisjoint(pod.uid for pod in after)
    # It asked for all three at once, and was told to wait.
    assert said > 0
    assert serving == 2
    assert tally.failures == []
    assert tally.ips >= {pod.ip for pod in before}
