"""Registry `endpointslice`: what slices mean, Services by name, and why one is not found."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pymicro.base.errors import RegistryError
from pymicro.kubernetes.slices import EndpointSliceRegistry
from pymicro.kubernetes.slices.reader import (
    FOR_NODES,
    FOR_ZONES,
    HOSTNAME,
    SliceReader,
    one_family,
    read_slice,
)
from pymicro.nodes.node import Node, NodeSet
from pymicro.nodes.wellknown import ZONE
from pymicro.settings.config import load
from pymicro.testing.waiting import expect, first
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.slices import endpoint, slice
from tests.kubernetes.kube_contract import QUICK


def make(url: str, namespace: str = "default", **settings: Any) -> EndpointSliceRegistry:
    config = load({"registry_address": [url], **settings}, environ={})
    return EndpointSliceRegistry(config, environ={"POD_NAMESPACE": namespace}, timing=QUICK)


def addresses(found: dict[str, Any]) -> list[str]:
    return [node.address for node in read_slice(found, "greeter").nodes]


def why(found: dict[str, Any]) -> list[str]:
    return [one.why for one in read_slice(found, "greeter").endpoints]


# What a slice means


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ({"ready": True}, ""),
        ({"ready": None}, ""),  # "A nil value should be interpreted as true"
        ({"ready": False}, "not ready"),
        ({"ready": False, "serving": True, "terminating": True}, "terminating"),
        ({"ready": False, "serving": False, "terminating": False}, "not ready"),
        ({"ready": True, "serving": True, "terminating": False}, ""),
        # A Service with publishNotReadyAddresses
        ({"ready": True, "serving": False, "terminating": False}, ""),
        ({"ready": True, "serving": True, "terminating": True}, "terminating"),
        ({"ready": False, "serving": False, "terminating": True}, "terminating"),
        ({"ready": True, "serving": None, "terminating": True}, "terminating"),
        ({"ready": False, "serving": None, "terminating": True}, "terminating"),
    ],
)
def test_conditions_mean_what_the_api_says(conditions: dict[str, Any], said: str) -> None:
    found = slice("s", endpoint("10.0.0.1", **conditions))
    assert why(found) == [said]
    # "If nil, consumers should defer to the ready condition."
    serving = conditions.get("serving")
    serves = conditions["ready"] if serving is None else serving
    last_resort = said == "terminating" and serves
    assert addresses(found) == ([] if said and not last_resort else ["10.0.0.1:8080"])
    for node in read_slice(found, "greeter").nodes:
        assert ("terminating" in node.metadata) is last_resort


def test_conditions_that_are_missing_or_null_are_ready() -> None:
    for conditions in ({}, None, {"ready": None}):
        found = slice("s", endpoint("10.0.0.1"))
        found["endpoints"][0]["conditions"] = conditions
        assert addresses(found) == ["10.0.0.1:8080"]


def ports(*given: dict[str, Any]) -> dict[str, Any]:
    return {**slice("s", endpoint("10.0.0.1")), "ports": list(given)}


@pytest.mark.parametrize(
    ("given", "port"),
    [
        ([{"name": "grpc", "port": 1}], 1),
        ([{"name": "", "port": 1}], 1),
        ([{"name": None, "port": 1, "protocol": None}], 1),
        ([{"name": "http", "port": 1}], 1),
        ([{"name": "http", "port": 1}, {"name": "grpc", "port": 2}], 2),
        ([{"name": "a", "port": 1}, {"name": "b", "port": 2, "appProtocol": "grpc"}], 2),
        ([{"name": "a", "port": 1}, {"name": "b", "port": 2, "appProtocol": "kubernetes.io/h2c"}], 2),
        ([{"name": "a", "port": 1, "appProtocol": "grpc"}, {"name": "grpc", "port": 2}], 2),
        ([{"name": "dns", "port": 1, "protocol": "UDP"}, {"name": "x", "port": 2}], 2),
        ([{"name": "grpc", "port": 1, "protocol": "UDP"}, {"name": "x", "port": 2}], 2),
        ([{"name": "a", "port": 1}, {"name": "b", "port": 2}], None),
        ([{"name": "grpc", "port": None}], None),
        ([{"name": "grpc", "port": 0}], None),
        ([{"name": "grpc", "port": 70000}], None),
        ([{"name": "grpc", "port": True}], None),
        ([{"name": "grpc", "port": "8080"}], None),
        ([], None),
    ],
)
def test_the_port_is_the_one_named_grpc_or_that_speaks_it_or_the_only_one(
    given: list[dict[str, Any]], port: int | None
) -> None:
    found = ports(*given)
    assert addresses(found) == ([] if port is None else [f"10.0.0.1:{port}"])
    assert bool(read_slice(found, "greeter").problem) is (port is None)


def test_an_endpoint_is_a_node_with_its_place() -> None:
    one = endpoint("10.0.0.1", pod="greeter-1", zone="eu-1a", node="machine-7", hints=["eu-1a", "eu-1b"])
    one["hints"]["forNodes"] = [{"name": "machine-7"}]
    (node,) = read_slice(slice("s", one), "greeter").nodes
    assert node == Node(
        "uid-of-greeter-1",
        "10.0.0.1:8080",
        "greeter",
        "",
        {ZONE: "eu-1a", HOSTNAME: "machine-7", FOR_ZONES: "eu-1a,eu-1b", FOR_NODES: "machine-7"},
    )


def test_an_endpoint_without_a_pod_is_known_by_its_address() -> None:
    (node,) = read_slice(slice("s", endpoint("10.0.0.1")), "greeter").nodes
    assert node == Node("10.0.0.1:8080", "10.0.0.1:8080", "greeter")


def test_only_the_first_address_of_an_endpoint_means_anything() -> None:
    assert addresses(slice("s", endpoint("10.0.0.1", "10.0.0.2"))) == ["10.0.0.1:8080"]


def test_ipv6_addresses_are_bracketed() -> None:
    assert addresses(slice("s", endpoint("fd00::1"), family="IPv6")) == ["[fd00::1]:8080"]


def test_a_slice_of_names_is_none_of_ours() -> None:
    found = slice("s", endpoint("example.com"), family="FQDN")
    assert "FQDN" in read_slice(found, "greeter").problem
    assert SliceReader("greeter")(found) is None


def test_a_thousand_pods_of_a_machine_share_their_metadata() -> None:
    one, two = read_slice(
        slice("s", *(endpoint(f"10.0.0.{number}", zone="a", node="m") for number in (1, 2))), "greeter"
    ).nodes
    assert one.metadata is two.metadata


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"addressType": "IPv4"},
        {"addressType": ["IPv4"]},
        {"addressType": "IPv4", "ports": {"name": "grpc"}, "endpoints": "x"},
        {"addressType": "IPv4", "ports": [None, {"port": 1}], "endpoints": None},
        {"addressType": "IPv4", "ports": [{"port": 1}], "endpoints": [None, 1, {}, {"addresses": {}}]},
        {"addressType": "IPv4", "ports": [{"port": 1}], "endpoints": [{"addresses": [None]}]},
        {"addressType": "IPv4", "ports": [{"port": 1}], "endpoints": [{"addresses": ["evil.example"]}]},
        {"addressType": "IPv4", "ports": [{"port": 1}], "endpoints": [{"addresses": ["10.0.0.1:99"]}]},
        {"addressType": "IPv6", "ports": [{"port": 1}], "endpoints": [{"addresses": ["fe80::1%eth0"]}]},
    ],
)
def test_a_slice_of_the_wrong_shape_has_no_nodes(broken: dict[str, Any]) -> None:
    assert read_slice(broken, "greeter").nodes == ()


def test_hostile_texts_are_left_out_and_the_endpoint_stays() -> None:
    one = endpoint("10.0.0.1", zone="x" * 10_000, node="a\nERROR forged")
    one["targetRef"] = {"name": 5, "uid": ["x"]}
    one["hints"] = {"forZones": [{"name": "z"}] * 1000}
    (node,) = read_slice(slice("s", one), "greeter").nodes
    assert node.id == "10.0.0.1:8080"
    assert set(node.metadata) == {FOR_ZONES}
    assert len(node.metadata[FOR_ZONES]) < 100


def test_a_pod_of_both_families_is_one_node() -> None:
    def node(pod: str, address: str) -> Node:
        return Node(pod, address, "greeter")

    six = [node("a", "[fd00::1]:1"), node("b", "[fd00::2]:1")]
    four = [node("a", "10.0.0.1:1"), node("c", "10.0.0.3:1")]
    assert list(one_family(NodeSet.of(six + four))) == [four[0], six[1], four[1]]
    for alone in (NodeSet.of(six), NodeSet.of(four), NodeSet()):
        assert one_family(alone) is alone


# Services


async def test_endpoints_come_from_every_slice_and_each_once() -> None:
    async with FakeKubeApi() as api, make(api.url) as registry:
        api.create(slice("one", endpoint("10.0.0.1", pod="a"), endpoint("10.0.0.2", pod="b")))
        api.create(slice("two", endpoint("10.0.0.2", pod="b"), endpoint("10.0.0.3", pod="c")))
        api.create(slice("other", endpoint("10.0.0.9"), service="front"))
        sets = registry.watch("greeter")
        assert len(await first(sets, within=5)) == 3
        # It moves from one slice to the other: it is there all the time.
        api.update(slice("one", endpoint("10.0.0.1", pod="a")))
        api.update(slice("two", endpoint("10.0.0.3", pod="c")))
        nodes = [Node(f"uid-of-{pod}", f"10.0.0.{n}:8080", "greeter") for pod, n in (("a", 1), ("c", 3))]
        await expect(sets, nodes, within=5)
        api.delete("two", plural="endpointslices")
        await expect(sets, nodes[:1], within=5)
        await sets.aclose()


async def test_the_last_endpoint_counts_while_it_terminates_and_serves() -> None:
    leaving = endpoint("10.0.0.1", ready=False, serving=True, terminating=True)
    async with FakeKubeApi() as api, make(api.url) as registry:
        api.create(slice("one", endpoint("10.0.0.1")))
        sets = registry.watch("greeter")
        assert len(await first(sets, within=5)) == 1
        api.update(slice("one", leaving))
        where = "10.0.0.1:8080"
        await expect(sets, [Node(where, where, "greeter", "", {"terminating": "true"})], within=5)
        # In another slice, and so of another event.
        api.create(slice("two", endpoint("10.0.0.2")))
        await expect(sets, [Node("10.0.0.2:8080", "10.0.0.2:8080", "greeter")], within=5)
        api.delete("two", plural="endpointslices")
        await expect(sets, [Node(where, where, "greeter", "", {"terminating": "true"})], within=5)
        api.update(slice("one", endpoint("10.0.0.1", ready=False, serving=False, terminating=True)))
        await expect(sets, [], within=5)
        await sets.aclose()


async def test_an_endpoint_that_stops_being_ready_leaves() -> None:
    async with FakeKubeApi() as api, make(api.url) as registry:
        api.create(slice("one", endpoint("10.0.0.1"), endpoint("10.0.0.2")))
        sets = registry.watch("greeter")
        assert len(await first(sets, within=5)) == 2
        api.update(slice("one", endpoint("10.0.0.1", ready=False), endpoint("10.0.0.2")))
        await expect(sets, [Node("10.0.0.2:8080", "10.0.0.2:8080", "greeter")], within=5)
        await sets.aclose()


async def test_a_pod_of_both_families_arrives_once() -> None:
    async with FakeKubeApi() as api, make(api.url) as registry:
        api.create(slice("four", endpoint("10.0.0.1", pod="a")))
        api.create(slice("six", endpoint("fd00::1", pod="a"), family="IPv6"))
        sets = registry.watch("greeter")
        assert [node.address for node in await first(sets, within=5)] == ["10.0.0.1:8080"]
        api.delete("four", plural="endpointslices")
        await expect(sets, [Node("uid-of-a", "[fd00::1]:8080", "greeter")], within=5)
        await sets.aclose()


@pytest.mark.parametrize(
    ("service", "settings", "found"),
    [
        ("greeter", {}, ["10.0.0.1"]),
        ("greeter.staging", {}, ["10.0.0.2"]),
        ("greeter", {"registry_namespace": "staging"}, ["10.0.0.2"]),
        ("greeter.default", {"registry_namespace": "staging"}, ["10.0.0.1"]),
        ("greeter", {"registry_namespace": "default,staging"}, ["10.0.0.1", "10.0.0.2"]),
        ("greeter", {"registry_namespace": "*"}, ["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
        ("greeter.nowhere", {}, []),
    ],
)
async def test_a_service_is_looked_for_where_its_name_or_the_setting_says(
    service: str, settings: dict[str, Any], found: list[str]
) -> None:
    async with FakeKubeApi() as api, make(api.url, **settings) as registry:
        for number, namespace in enumerate(("default", "staging", "other"), 1):
            api.create(slice("one", endpoint(f"10.0.0.{number}"), namespace=namespace))
        sets = registry.watch(service)
        wanted = [Node(f"{ip}:8080", f"{ip}:8080", service) for ip in found]
        await expect(sets, wanted, within=5, service=service)
        await sets.aclose()


@pytest.mark.parametrize("name", ["Greeter", "a.b.c", "greeter_x", "", "größe", ".x", "x.", "x" * 64])
async def test_a_name_no_kubernetes_service_can_have_is_told_without_asking(name: str) -> None:
    async with FakeKubeApi() as api, make(api.url) as registry:
        with pytest.raises(RegistryError, match=r"no name of a Kubernetes Service.*pymicro doctor"):
            await anext(registry.watch(name))
        assert api.requests == []


async def test_services_are_those_with_an_endpoint_that_counts() -> None:
    async with FakeKubeApi() as api:
        api.create(slice("one", endpoint("10.0.0.1")))
        api.create(slice("two", endpoint("10.0.0.2"), service="front"))
        api.create(slice("three", endpoint("10.0.0.3", ready=False), service="down"))
        api.create(slice("four", endpoint("10.0.0.4"), service="web", ports={"a": 1, "b": 2}))
        api.create(slice("five", endpoint("10.0.0.5"), namespace="staging"))
        async with make(api.url) as registry:
            assert await registry.services() == ["front", "greeter"]
        async with make(api.url, registry_namespace="*") as registry:
            names = await registry.services()
            assert names == ["front.default", "greeter.default", "greeter.staging"]
            sets = registry.watch(names[-1])
            assert [node.address for node in await first(sets, within=5)] == ["10.0.0.5:8080"]
            await sets.aclose()


async def test_it_publishes_nothing_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with FakeKubeApi() as api:
        async with make(api.url) as registry:
            for _ in range(3):
                await registry.register(Node("a", "10.0.0.1:1", "greeter"))
            await registry.deregister(Node("a", "10.0.0.1:1", "greeter"))
        assert api.requests == []
    assert sum("publishes nothing" in record.getMessage() for record in caplog.records) == 1


# Saying why


async def told(registry: EndpointSliceRegistry, service: str = "greeter") -> dict[str, str]:
    async def lines() -> AsyncIterator[tuple[str, str]]:
        async for finding in registry.diagnose(service):
            yield f"{finding.check}: {finding.level}", finding.text

    return {head: text async for head, text in lines()}


async def test_a_service_that_is_well_is_said_to_be() -> None:
    async with FakeKubeApi() as api, make(api.url) as registry:
        api.create(slice("one", endpoint("10.0.0.1", pod="a"), endpoint("10.0.0.2", pod="b", ready=False)))
        found = await told(registry)
        assert found["endpoint a: ok"] == "counts: 10.0.0.1:8080"
        assert found["endpoint b: note"] == "does not count: not ready"
        assert found["nodes: ok"] == "1 endpoint of greeter in namespace default"
        assert not [head for head in found if head.endswith("problem")]


async def test_what_is_wrong_with_a_service_is_said() -> None:
    async with FakeKubeApi() as api, make(api.url) as registry:
        assert "no slice of a Service greeter" in (await told(registry))["nodes: problem"]
        assert "no name" in (await told(registry, "Greeter"))["name: problem"]
        api.create(slice("one", endpoint("10.0.0.1", pod="a", ready=False)))
        found = await told(registry)
        assert found["endpoint a: problem"] == "does not count: not ready"
        assert "no endpoint of greeter counts" in found["nodes: problem"]
        api.update(slice("one", endpoint("10.0.0.1"), ports={"a": 1, "b": 2}))
        assert "a 1, b 2" in (await told(registry))["slice one: problem"]
        api.forbid("watch", "endpointslices")
        assert "watch endpointslices in namespace default" in (await told(registry))["access: problem"]


async def test_without_a_service_only_what_concerns_all_is_said() -> None:
    async with FakeKubeApi() as api, make(api.url) as registry:
        found = await told(registry, "")
        assert {head.partition(":")[0] for head in found} == {"credentials", "API server", "access"}
