"""Selector `static`: the address it makes of a name."""

from __future__ import annotations

import pytest

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.discovery.directory import Directory
from pymicro.discovery.registries.memory import MemoryRegistry
from pymicro.discovery.selectors.static import StaticSelector
from pymicro.nodes.node import NodeSet
from pymicro.settings.config import load
from pymicro.testing.waiting import first


def make(**environ: str) -> StaticSelector:
    return StaticSelector(load(environ={}), Directory(MemoryRegistry()), environ=environ)


async def nodes_of(selector: StaticSelector, service: str) -> NodeSet:
    sets = selector.watch(service)
    try:
        return await first(sets, within=5)
    finally:
        await sets.aclose()


@pytest.mark.parametrize(
    ("environ", "service", "address"),
    [
        ({}, "greeter", "greeter:8080"),
        ({}, "greeter.staging", "greeter.staging:8080"),
        ({}, "go.micro.srv.greeter", "go.micro.srv.greeter:8080"),
        ({}, "greeter.staging.svc.cluster.local.", "greeter.staging.svc.cluster.local.:8080"),
        ({"STATIC_SELECTOR_DOMAIN_NAME": "staging.svc"}, "greeter", "greeter.staging.svc:8080"),
        ({"STATIC_SELECTOR_DOMAIN_NAME": ".staging"}, "greeter", "greeter.staging:8080"),
        ({"STATIC_SELECTOR_PORT_NUMBER": "9090"}, "greeter_v2", "greeter_v2:9090"),
        ({"STATIC_SELECTOR_PORT_NUMBER": " "}, "10.0.0.1", "10.0.0.1:8080"),
    ],
)
async def test_a_service_is_one_name_that_grpc_resolves(
    environ: dict[str, str], service: str, address: str
) -> None:
    selector = make(**environ)
    (node,) = await nodes_of(selector, service)
    assert (node.address, node.id, node.kind, node.service) == (address, address, "name", service)
    assert selector.describe(service) == f"DNS name {address}"


@pytest.mark.parametrize(
    "service", ["", "größe", "a b", "greeter:8080", "a..b", "-a", "a-", "a" * 64, "a." * 130, "a/b", "a\n"]
)
async def test_a_name_the_dns_cannot_have_is_refused(service: str) -> None:
    with pytest.raises(RegistryError, match="no DNS name") as refusal:
        await nodes_of(make(), service)
    assert repr(service)[:200] in str(refusal.value)
    assert "--selector registry" in str(refusal.value)


@pytest.mark.parametrize("port", ["http", "0", "65536", "-1", "8080.0"])
def test_a_port_number_that_is_none_is_refused_at_once(port: str) -> None:
    with pytest.raises(ConfigError, match=f"STATIC_SELECTOR_PORT_NUMBER: '{port}' is no port"):
        make(STATIC_SELECTOR_PORT_NUMBER=port)
