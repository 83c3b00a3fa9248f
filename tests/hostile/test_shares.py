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
from pymicro.kubernetes.cluster.shares import limited, most_of_one
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


# Two pods of one machine's network


async def test_pods_that_share_a_machines_address_have_a_share_each() -> None:
    async with FakeKubeApi() as api:
        for number, ip in enumerate(["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.3"]):
            api.create(labelled(f"good-{number}", ip, ports={"grpc": 8000 + number}))
        async with kubernetes(api.url) as registry, watching(registry) as seen:
            await seen.until(lambda: len(seen.told[-1] if seen.told else ()) == 5, "all pods")


async def test_a_pod_alone_in_its_namespace_is_compared_with_all() -> None:
    async with FakeKubeApi() as api:
        for number in range(HONEST):
            api.create(labelled(f"good-{number}", f"10.0.0.{number}"))
        async with (
            kubernetes(api.url, registry_namespace=["evil", "default"]) as registry,
            watching(registry) as seen,
        ):
            await seen.until(lambda: len(seen.told[-1] if seen.told else ()) == HONEST, "the good ones")
            api.create(recorded("evil", EVIL, CLAIMS["many ports"], namespace="evil"))
            await seen.until(lambda: len(seen.told[-1]) == HONEST + 1, "one of the evil one")
            # The others get more processes, one after the other.
            for number in range(HONEST):
                ports = [f"10.0.0.{number}:{port}" for port in (1, 2)]
                api.apply(recorded(f"good-{number}", f"10.0.0.{number}", nodes_of(*ports)))
            await seen.until(lambda: len(seen.told[-1]) == 2 * HONEST + 3, "three of the evil one")


# The rule by itself


def processes(*counts: int, **metadata: str) -> dict[str, tuple[Node, ...]]:
    """Pods with so many processes each."""
    return {
        str(pod): tuple(
            Node(f"{pod}-{one}", f"10.0.0.{pod}:{8000 + one}", "greeter", metadata=metadata)
            for one in range(count)
        )
        for pod, count in enumerate(counts)
    }


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
    pods = processes(*counts)
    assert [len(nodes) for nodes in limited(pods, most_of_one([pods])).values()] == left


def test_what_is_fair_stays_the_same_object() -> None:
    for pods in (processes(1, 1, 1), processes(4, 4)):
        assert limited(pods, most_of_one([pods])) is pods


def test_nodes_of_another_protocol_take_nobodys_place() -> None:
    shown = processes(3, 1, protocol="http")
    assert limited(shown, most_of_one([shown])) == shown
    mixed = {"a": (*processes(1)["0"], *processes(3, protocol="http")["0"]), **processes(0, 1)}
    assert limited(mixed, most_of_one([mixed])) == mixed
