"""Selector `dns`: look-ups of hosts and SRV records, against a DNS server of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from pymicro.base.errors import PluginError, RegistryError
from pymicro.discovery.directory import Directory
from pymicro.discovery.registries.memory import MemoryRegistry
from pymicro.discovery.selectors.dns import DnsSelector, default_resolver, resolve_host
from pymicro.nodes.node import EMPTY, NodeSet
from pymicro.settings.config import load
from pymicro.testing.waiting import first

PATIENCE = 5.0


class Hosts:
    """What the resolver of hosts says, and how often it was asked."""

    def __init__(self, **hosts: list[str] | Exception) -> None:
        self.hosts = {name.replace("_", "."): answer for name, answer in hosts.items()}
        self.asked = 0
        self.moments: list[float] = []
        self._asked_again = asyncio.Event()

    async def asked_times(self, times: int) -> None:
        while self.asked < times:
            self._asked_again.clear()
            await self._asked_again.wait()

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        self._asked_again.set()
        self.moments.append(asyncio.get_running_loop().time())
        answer = self.hosts.get(host, [])
        if isinstance(answer, Exception):
            raise answer
        return answer


def make(resolve: Any = resolve_host, environ: dict[str, str] | None = None, **options: Any) -> DnsSelector:
    directory = Directory(MemoryRegistry())
    return DnsSelector(load(environ={}), directory, environ=environ or {}, resolve=resolve, **options)


def addresses(nodes: NodeSet) -> set[str]:
    return {node.address for node in nodes}


async def once(selector: DnsSelector, service: str) -> NodeSet:
    sets = selector.watch(service)
    try:
        return await first(sets, within=PATIENCE)
    finally:
        await sets.aclose()


class Server(asyncio.DatagramProtocol):
    """A DNS server with these SRV records; `code` is its answer for every name if set."""

    def __init__(self, records: dict[str, list[str]]) -> None:
        self.records = records
        self.code: dns.rcode.Rcode | None = None
        self.names: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, peer: Any) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        self.names.append(name)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if self.code is not None:
            answer.set_rcode(self.code)
        elif name not in self.records:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif self.records[name]:
            answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "SRV", *self.records[name]))
        self.transport.sendto(answer.to_wire(), peer)


@contextlib.asynccontextmanager
async def serving(
    records: dict[str, list[str]],
) -> AsyncIterator[tuple[Server, Callable[[], dns.asyncresolver.Resolver]]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: Server(records), local_addr=("127.0.0.1", 0)
    )

    def resolver() -> dns.asyncresolver.Resolver:
        made = dns.asyncresolver.Resolver(configure=False)
        made.nameservers = ["127.0.0.1"]
        made.port = transport.get_extra_info("sockname")[1]
        made.lifetime = 1.0
        return made

    try:
        yield server, resolver
    finally:
        transport.close()


# Hosts


async def test_all_addresses_of_a_host_are_nodes() -> None:
    hosts = Hosts(greeter_example_com=["10.0.0.1", "10.0.0.2", "fd00::1", "10.0.0.1"])
    nodes = await once(make(hosts), "greeter.example.com:8080")
    assert addresses(nodes) == {"10.0.0.1:8080", "10.0.0.2:8080", "[fd00::1]:8080"}
    assert {node.service for node in nodes} == {"greeter.example.com:8080"}
    assert {node.kind for node in nodes} == {"address"}
    assert all(node.id == node.address for node in nodes)


async def test_the_systems_resolver_is_asked() -> None:
    assert "127.0.0.1:1" in addresses(await once(make(), "localhost:1"))
    assert addresses(await once(make(), "[::1]:1")) == {"[::1]:1"}


async def test_a_host_that_does_not_exist_has_no_nodes_and_a_failing_resolver_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = socket.EAI_NONAME

    async def fails(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(code, "as the system says it")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fails)
    assert await once(make(), "nobody.example.com:1") == EMPTY
    code = socket.EAI_AGAIN
    with pytest.raises(RegistryError, match="as the system says it"):
        await once(make(), "nobody.example.com:1")


async def test_a_resolver_that_fails_before_the_first_answer_is_an_error() -> None:
    again = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    with pytest.raises(RegistryError, match=r"'greeter:1'.*Temporary failure"):
        await once(make(Hosts(greeter=again)), "greeter:1")


@pytest.mark.parametrize("service", ["größe:80", "a b:80", ":80", "greeter:0", "greeter:http", "a:b:c"])
async def test_a_host_and_port_that_cannot_be_are_refused(service: str) -> None:
    with pytest.raises(RegistryError) as refusal:
        await once(make(Hosts()), service)
    assert repr(service) in str(refusal.value)


# Looking again


async def test_it_looks_again_at_its_interval_and_yields_what_changed() -> None:
    hosts = Hosts(greeter=["10.0.0.1"])
    sets = make(hosts, interval=0.05, least=0.01).watch("greeter:1")
    assert addresses(await first(sets, within=PATIENCE)) == {"10.0.0.1:1"}
    hosts.hosts["greeter"] = ["10.0.0.2"]
    assert addresses(await first(sets, within=PATIENCE)) == {"10.0.0.2:1"}
    hosts.hosts["greeter"] = []
    assert await first(sets, within=PATIENCE) == EMPTY
    await sets.aclose()


async def test_a_refresh_looks_again_soon_but_not_at_once() -> None:
    hosts = Hosts(greeter=["10.0.0.1"])
    selector = make(hosts, interval=3600.0, least=0.2)
    sets = selector.watch("greeter:1")
    await first(sets, within=PATIENCE)
    for _ in range(100):
        selector.refresh("greeter:1")
    await first(sets, within=PATIENCE)
    assert hosts.asked == 2
    assert hosts.moments[1] - hosts.moments[0] >= 0.19
    selector.refresh("greeter:1")
    await first(sets, within=PATIENCE)
    assert hosts.moments[2] - hosts.moments[1] >= 0.19
    await sets.aclose()
    selector.refresh("greeter:1")
    assert selector._nudges == {}


async def test_a_failure_keeps_the_last_set_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    hosts = Hosts(greeter=["10.0.0.1"])
    selector = make(hosts, interval=0.02, least=0.01)
    sets = selector.watch("greeter:1")
    await first(sets, within=PATIENCE)
    hosts.hosts["greeter"] = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    more = asyncio.ensure_future(anext(sets))
    await asyncio.wait_for(hosts.asked_times(hosts.asked + 3), PATIENCE)
    assert not more.done()  # neither an error nor an empty set
    assert "had 1 address" in selector.describe("greeter:1")
    assert "Temporary failure" in selector.describe("greeter:1")
    hosts.hosts["greeter"] = ["10.0.0.2"]
    assert addresses(await more) == {"10.0.0.2:1"}
    await sets.aclose()
    lines = [record.getMessage() for record in caplog.records if record.name == "pymicro.selector.dns"]
    assert len(lines) == 2, lines
    assert "keeping 1 nodes" in lines[0]
    assert "answers again" in lines[1]


async def test_a_look_up_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr("pymicro.discovery.selectors.dns._TIMEOUT", 0.05)
    with pytest.raises(RegistryError, match="did not answer"):
        await once(make(never), "greeter:1")


# SRV


async def test_srv_records_name_hosts_and_ports() -> None:
    hosts = Hosts(a_example_com=["10.0.0.1", "10.0.0.2"], b_example_com=["10.0.0.3"])
    records = {"_greeter._tcp.local": ["10 5 8080 a.example.com.", "10 0 9090 b.example.com."]}
    async with serving(records) as (server, resolver):
        nodes = await once(make(hosts, resolver=resolver), "greeter")
    assert addresses(nodes) == {"10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:9090"}
    assert server.names == ["_greeter._tcp.local"]


async def test_only_targets_of_the_best_priority_count() -> None:
    hosts = Hosts(a_example_com=["10.0.0.1"], b_example_com=["10.0.0.2"])
    records = {"_greeter._tcp.local": ["20 0 80 a.example.com.", "10 0 80 b.example.com."]}
    async with serving(records) as (_, resolver):
        assert addresses(await once(make(hosts, resolver=resolver), "greeter")) == {"10.0.0.2:80"}


async def test_the_domain_and_whole_srv_names_can_be_given() -> None:
    environ = {"DNS_SELECTOR_DOMAIN_NAME": "example.com."}
    async with serving({}) as (server, resolver):
        await once(make(Hosts(), environ, resolver=resolver), "greeter")
        await once(make(Hosts(), environ, resolver=resolver), "_grpc._tcp.greeter.default.svc.cluster.local")
    assert server.names == ["_greeter._tcp.example.com", "_grpc._tcp.greeter.default.svc.cluster.local"]


async def test_no_srv_record_is_no_node_and_a_failing_server_is_an_error() -> None:
    records = {"_there._tcp.local": [], "_not-offered._tcp.local": ["0 0 0 ."]}
    async with serving(records) as (server, resolver):
        selector = make(Hosts(), resolver=resolver)
        assert await once(selector, "nobody") == EMPTY
        assert await once(selector, "there") == EMPTY
        assert await once(selector, "not-offered") == EMPTY
        server.code = dns.rcode.SERVFAIL
        with pytest.raises(RegistryError, match=r"SRV _nobody\._tcp\.local"):
            await once(selector, "nobody")


async def test_one_target_that_cannot_be_resolved_now_fails_the_look_up() -> None:
    again = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    hosts = Hosts(a_example_com=["10.0.0.1"], b_example_com=again)
    records = {"_greeter._tcp.local": ["10 0 80 a.example.com.", "10 0 80 b.example.com."]}
    async with serving(records) as (_, resolver):
        with pytest.raises(RegistryError, match="Temporary failure"):
            await once(make(hosts, resolver=resolver), "greeter")


async def test_srv_without_dnspython_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    with pytest.raises(PluginError, match=r"pip install 'pymicro-grpc\[dns\]'"):
        await once(make(Hosts(), resolver=default_resolver), "greeter")
    # A host and port need none of it.
    assert addresses(await once(make(Hosts(greeter=["10.0.0.1"])), "greeter:1")) == {"10.0.0.1:1"}


@pytest.mark.parametrize("service", ["größe", "a b", "", "a..b"])
async def test_a_name_without_srv_record_by_its_form_is_refused(service: str) -> None:
    with pytest.raises(RegistryError, match="no DNS name") as refusal:
        await once(make(Hosts()), service)
    assert repr(service) in str(refusal.value)
