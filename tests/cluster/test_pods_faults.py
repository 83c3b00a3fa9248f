"""Pods that die, fall silent or are not ready for a while: what the registry alone does about it.

Retries, ejection and keepalive are off; test_pods_chaos.py has them.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from tests.cluster.cluster import Cluster, PodView
from tests.cluster.plane import eventually
from tests.cluster.tally import Load

pytestmark = pytest.mark.cluster

GREETER = "app.kubernetes.io/name=greeter"

ALONE = {"MICRO_CLIENT_RETRIES": "0", "MICRO_OUTLIER_EJECTION": "off", "MICRO_KEEPALIVE": "0"}

# Seconds in which a client has heard of a change in a pod (design goal: p99 within 1 s).
HEARD = 1.0


@pytest.fixture
def load(cluster: Cluster, pods_namespace: str) -> Load:
    return Load(cluster, pods_namespace, rate=50.0, settings={"MICRO_REGISTRY": "kubernetes", **ALONE})


def wait_until(cluster: Cluster, namespace: str, uid: str, condition: Callable[[PodView], bool]) -> PodView:
    """The pod, once it is so."""

    def asked() -> PodView | None:
        [pod] = [pod for pod in cluster.pods(namespace, GREETER) if pod.uid == uid]
        return pod if condition(pod) else None

    found: PodView = eventually("the pod changes", asked, 30.0)
    return found


def wait_for_calls(load: Load, pod: PodView, since: float) -> None:
    """Until the pod has answered calls again; a report tells of the second before it."""
    eventually(f"{pod.ip} is called again", lambda: pod.ip in load.tally(since=since + 1.0).ips, 15.0)


def test_a_killed_process_fails_only_its_calls_in_flight_and_its_pod_comes_back(
    cluster: Cluster, pods_namespace: str, load: Load, say: Callable[[str], None]
) -> None:
    cluster.apply("deploy/greeter", pods_namespace)
    victim, *_ = cluster.wait_for_pods(pods_namespace, GREETER, 3)
    load.start()
    killed = time.time()
    victim.signal(signal.SIGKILL)
    again = wait_until(
        cluster, pods_namespace, victim.uid, lambda pod: pod.ready and pod.restarts == victim.restarts + 1
    )
    back = time.time()
    assert again.ip == victim.ip
    wait_for_calls(load, victim, since=back)
    load.stop()

    tally = load.tally()
    say(f"kill -9 of 1 of 3 pods, ready again after {back - killed:.1f} s: {tally.describe()}")
    assert {failure.node for failure in tally.failures} <= {f"{victim.ip}:8080"}
    # In flight: begun before the kill, or in the moment that the kernel took to close its connections.
    assert [f for f in tally.failures if f.begun > killed + 0.1] == []
    # A third of 20 long calls a second, of some 0.33 s each, was in flight there.
    assert len(tally.failures) <= 15
    assert tally.ips == {pod.ip for pod in cluster.pods(pods_namespace, GREETER)}


def test_a_pod_that_swallows_packets_is_left_when_its_readiness_probe_fails(
    cluster: Cluster, pods_namespace: str, load: Load, say: Callable[[str], None]
) -> None:
    cluster.apply("deploy/greeter", pods_namespace)
    victim, *_ = cluster.wait_for_pods(pods_namespace, GREETER, 3)
    load.start()
    silent = time.time()
    cluster.black_hole(victim)
    wait_until(cluster, pods_namespace, victim.uid, lambda pod: not pod.ready)
    noticed = time.time()
    eventually("a report of the time after", lambda: load.tally(since=noticed + HEARD + 2.0).calls)
    cluster.end_black_hole(victim)
    wait_until(cluster, pods_namespace, victim.uid, lambda pod: pod.ready)
    wait_for_calls(load, victim, since=time.time())
    load.stop()

    tally = load.tally()
    say(f"1 of 3 pods black-holed, not ready after {noticed - silent:.1f} s: {tally.describe()}")
    # Probes of 2 s, two of them.
    assert noticed - silent < 12.0
    assert tally.failures
    assert {failure.node for failure in tally.failures} == {f"{victim.ip}:8080"}
    # A long call of before may have been in flight; nobody was sent there after the pod was known not
    # to be ready.
    assert [f for f in tally.failures if not silent - 1.0 < f.begun < noticed + HEARD] == []


def test_a_pod_that_is_not_ready_for_a_while_gets_no_calls_and_fails_none(
    cluster: Cluster, pods_namespace: str, load: Load, say: Callable[[str], None]
) -> None:
    cluster.apply("tests/cluster/gated", pods_namespace)
    pods = cluster.wait_for_running(pods_namespace, GREETER, 3)
    for pod in pods:
        open_gate(cluster, pods_namespace, pod, True)
    victim, *others = cluster.wait_for_pods(pods_namespace, GREETER, 3)
    load.start()

    # Its server is as well as ever: who goes on calling it gets answers, and is found out by them.
    open_gate(cluster, pods_namespace, victim, False)
    wait_until(cluster, pods_namespace, victim.uid, lambda pod: not pod.ready)
    lost = time.time()
    eventually("reports of the time after", lambda: load.tally(since=lost + HEARD + 3.0).calls)
    regained = time.time()
    open_gate(cluster, pods_namespace, victim, True)
    wait_for_calls(load, victim, since=regained)
    load.stop()

    tally = load.tally()
    say(f"1 of 3 pods not ready for {regained - lost:.1f} s: {tally.describe()}")
    assert tally.failures == []
    # A report tells of the second before it, and a long call ends up to 0.4 s after its start.
    assert load.tally(since=lost + HEARD + 1.5, until=regained).ips == {pod.ip for pod in others}


def open_gate(cluster: Cluster, namespace: str, pod: PodView, is_open: bool) -> None:
    """Set the condition that tests/cluster/gated makes a pod's readiness depend on."""
    condition = {"type": "tests/open", "status": str(is_open)}
    path = f"/api/v1/namespaces/{namespace}/pods/{pod.name}/status"
    cluster.plane.api.patch(path, {"status": {"conditions": [condition]}})
