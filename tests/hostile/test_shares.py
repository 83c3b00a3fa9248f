"""One pod's share of its service's calls, whatever it writes: at most 1.5 times its fair share.

Only pods have a share. Whoever may write to etcd may write for everybody, and on a link of mdns anybody
may speak for everybody (docs/discovery.md).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from pymicro.balancing.balancer import CANCELLED, Balancer, CallInfo
from pymicro.balancing.balancers.p2c import P2C
from pymicro.balancing.balancers.random import Random
from pymicro.balancing.balancers.round_robin import RoundRobin
from pymicro.balancing.chooser import Chooser
from pymicro.kubernetes.pods.shares import fair_shares
from pymicro.nodes.node import Node, NodeSet
from tests.fakes.kube_api import FakeKubeApi
from tests.kubernetes.kube_contract import kubernetes
from tests.kubernetes.pods.test_faults_pods import labelled, recorded, watching

HONEST = 9
BAR = 1.5
EVIL, EVIL6 = "10.6.6.6", "fd00::666"


def nodes_of(*addresses: str, metadata: dict[str, str] | None = None) -> str:
    nodes = [
        {"id": f"evil-{number}", "address": address, "metadata": {"protocol": "grpc", **(metadata or {})}}
        for number, address in enumerate(addresses)
    ]
    return json.dumps({"name": "greeter", "version": "1", "nodes": nodes})


PORTS = [f"{EVIL}:{port}" for port in range(9000, 9200)]

# What a hostile pod writes into its record.
CLAIMS: dict[str, str] = {
    "one node": nodes_of(PORTS[0]),
    "many ports": nodes_of(*PORTS),
    "one port many times": nodes_of(*[PORTS[0]] * 200),
    "one address in many spellings": nodes_of(
        f"[{EVIL6}]:80", "[fd00:0::666]:80", "[FD00::666]:80", "[fd00:0:0:0:0:0:0:666]:80"
    ),
    "both families": nodes_of(
        *(f"{EVIL}:{port}" for port in (80, 81)), *(f"[{EVIL6}]:{port}" for port in (80, 81))
    ),
    "a zone of its own": nodes_of(*PORTS, metadata={"topology.kubernetes.io/zone": "a"}),
    "other pods' addresses": nodes_of(*(f"10.0.0.{number}:9000" for number in range(HONEST)), PORTS[0]),
    "pings and protocols": nodes_of(*PORTS, metadata={"keepalive": "1ns", "protocol": "grpc"}),
}


def shares(nodes: NodeSet, balancer: Balancer, zone: str) -> Counter[str]:
    """How many of 3,000 calls each host gets; all nodes answer alike."""
    chooser = Chooser(balancer, zone=zone, rng=random.Random(7))
    chooser.update(nodes, nodes)
    calls: Counter[str] = Counter()
    for _ in range(3000):
        pick = chooser.pick(CallInfo("/a.B/C"))
        host = pick.node.address.rpartition(":")[0]
        calls["evil" if host in (EVIL, f"[{EVIL6}]") else host] += 1
        chooser.done(pick, CANCELLED)
    return calls


@pytest.mark.parametrize("zone", ["", "a"])
@pytest.mark.parametrize("claim", CLAIMS)
async def test_a_pod_gets_at_most_half_as_many_calls_again_as_its_share(claim: str, zone: str) -> None:
    async with FakeKubeApi() as api:
        for number in range(HONEST):
            api.create(labelled(f"good-{number}", f"10.0.0.{number}"))
        api.create(recorded("evil", EVIL, CLAIMS[claim], ips=[EVIL, EVIL6]))
        async with kubernetes(api.url) as registry, watching(registry) as seen:
            await seen.until(
                lambda: len({node.id for node in seen.told[-1]} if seen.told else ()) > HONEST, "all"
            )
            nodes = seen.told[-1]
    for balancer in (RoundRobin(), Random(), P2C()):
        calls = shares(nodes, balancer, zone)
        fair = calls.total() / (HONEST + 1)
        assert 0 < calls["evil"] <= BAR * fair * 1.1, (type(balancer).__name__, calls)  # 3,000 throws of dice
        assert len(calls) == HONEST + 1


# The rule by itself


def processes(*counts: int, **metadata: str) -> NodeSet:
    """Pods with so many processes each."""
    return NodeSet.of(
        Node(f"{pod}-{one}", f"10.0.0.{pod}:{8000 + one}", "greeter", metadata=metadata)
        for pod, count in enumerate(counts)
        for one in range(count)
    )


def counts_of(nodes: NodeSet) -> list[int]:
    return sorted(Counter(node.address.partition(":")[0] for node in nodes).values())


@pytest.mark.parametrize(
    ("counts", "left"),
    [
        ((1, 1, 1), [1, 1, 1]),
        ((4, 4, 4), [4, 4, 4]),
        ((4, 4, 6), [4, 4, 6]),
        ((4, 4, 7), [4, 4, 6]),
        ((1, 8), [1, 1]),
        ((8,), [8]),
        ((1, 1, 8, 8), [1, 1, 1, 1]),
        ((1, 8, 8), [1, 8, 8]),
        ((), []),
    ],
)
def test_most_pods_decide_how_many_nodes_one_may_have(counts: Any, left: list[int]) -> None:
    assert counts_of(fair_shares(processes(*counts))) == left


def test_a_set_that_is_fair_stays_the_same_object() -> None:
    for nodes in (processes(1, 1, 1), processes(4, 4)):
        assert fair_shares(nodes) is nodes


def test_nodes_of_another_protocol_take_nobodys_place() -> None:
    shown = processes(3, 1, protocol="http")
    assert fair_shares(shown) is shown
