"""A pod whose service is not well: nobody calls it, Kubernetes leaves it alone, and it comes back."""

from __future__ import annotations

import time

import pytest

from tests.cluster.cluster import Cluster, PodView
from tests.cluster.plane import eventually
from tests.cluster.tally import Load

pytestmark = pytest.mark.cluster

GREETER = "app.kubernetes.io/name=greeter"


@pytest.mark.parametrize("way", ["labelled", "patched"])
def test_a_pod_that_is_not_well_gets_no_calls_and_is_not_restarted(
    cluster: Cluster, pods_namespace: str, way: str
) -> None:
    cluster.apply(f"tests/cluster/unwell/{way}", pods_namespace)
    ill, *others = cluster.wait_for_pods(pods_namespace, GREETER, 3)
    load = Load(cluster, pods_namespace, rate=60.0, settings={"MICRO_REGISTRY": "kubernetes"})
    load.start()

    def now() -> PodView:
        return next(pod for pod in cluster.pods(pods_namespace, GREETER) if pod.uid == ill.uid)

    def annotated() -> bool:
        raw = cluster.plane.api.get(f"/api/v1/namespaces/{pods_namespace}/pods/{ill.name}")
        return any(key.startswith("micro.mu/service-") for key in raw["metadata"].get("annotations", {}))

    assert annotated() is (way == "patched")
    assert cluster.execute(ill, "touch", "/tmp/down").returncode == 0
    if way == "patched":
        eventually("its record is gone", lambda: not annotated())
    # A pod that is found by its labels leaves by its readiness probe.
    eventually("it is not ready", lambda: not now().ready)
    gone = time.time()
    eventually(
        "only the others are called, for seconds",
        lambda: load.tally(since=gone + 2.5).calls > 200,
    )
    assert load.tally(since=gone + 2.5).ips == {pod.ip for pod in others}

    assert cluster.execute(ill, "rm", "/tmp/down").returncode == 0
    eventually("it is ready", lambda: now().ready)
    back = time.time()
    eventually("it is called again", lambda: ill.ip in load.tally(since=back).ips)
    assert annotated() is (way == "patched")
    load.stop()
    assert load.tally().failures == []
    assert now().restarts == 0
    lines = [line for line in cluster.output(pods_namespace, ill.name).splitlines() if "SERVING" in line]
    assert len(lines) == 2, lines
    assert "leaves the registry: database: /tmp/down is there" in lines[0]
    assert "is SERVING again, after" in lines[1]
