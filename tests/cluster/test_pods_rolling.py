"""Ten pods are replaced three times under load, and no call fails.

Retries are off; test_pods_chaos.py does the same with default settings.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.bars import ROLLING, Bars
from tests.cluster.cluster import Cluster
from tests.cluster.tally import Load

pytestmark = pytest.mark.cluster

GREETER = "app.kubernetes.io/name=greeter"

PODS, ROUNDS = 10, 3


@pytest.mark.parametrize(
    ("mode", "manifests"), [("labels", "deploy/greeter"), ("patch", "deploy/greeter-self-register")]
)
def test_no_call_fails_while_all_pods_are_replaced(
    cluster: Cluster, pods_namespace: str, mode: str, manifests: str, bars: Bars, say: Callable[[str], None]
) -> None:
    cluster.apply(manifests, pods_namespace)
    cluster.scale(pods_namespace, "greeter", PODS)
    now = cluster.wait_for_pods(pods_namespace, GREETER, PODS)
    seen = {pod.uid: pod for pod in now}
    load = Load(
        cluster,
        pods_namespace,
        clients=2,
        rate=110.0,
        streams=3,
        patient=True,
        settings={"MICRO_REGISTRY": "kubernetes", "MICRO_CLIENT_RETRIES": "0"},
    )
    load.start()

    for _ in range(ROUNDS):
        cluster.rollout_restart(pods_namespace, "greeter", timeout=180.0)
        now = cluster.wait_for_pods(pods_namespace, GREETER, PODS, timeout=60.0)
        seen |= {pod.uid: pod for pod in now}
    load.stop()

    tally = load.tally()
    replaced = len(seen) - PODS
    say(f"rolling restart ×{ROUNDS} of {PODS} pods, {mode}: {replaced} pods replaced; {tally.describe()}")
    bars.met(ROLLING, f"{len(tally.failures)} of {tally.calls}", not tally.failures)
    assert tally.failures == []
    assert replaced == PODS * ROUNDS
    assert tally.clients == 2
    assert tally.ips == {pod.ip for pod in seen.values()}
    assert tally.rate >= 200
    assert tally.long >= tally.calls / 5
    # Each chat that a leaving pod held was told so; nothing else ended one.
    assert tally.chats["broken"] == 0
    assert tally.chats["drained"] >= PODS
