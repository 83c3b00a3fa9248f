"""Selector `dns`: look-ups of hosts and SRV records, against a DNS server of the test's own."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pymicro.base.errors import PluginError, RegistryError
from pymicro.discovery.directory import Directory
from pymicro.discovery.registries.memory import MemoryRegistry
from pymicro.discovery.selectors.dns import DnsSelector
from pymicro.discovery.selectors.dns.lookups import default_resolver
from pymicro.nodes.node import EMPTY, NodeSet
from pymicro.settings.config import load
from pymicro.testing.waiting import first
from tests.discovery.selectors.name_server import HOWS, Answer, NameServer, serving

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


def make(resolve: Any = None, environ: dict[str, str] | None = None, **options: Any) -> DnsSelector:
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

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(code, "as the system says it")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    assert await once(make(), "nobody.example.com:1") == EMPTY
    code = socket.EAI_AGAIN
    with pytest.raises(RegistryError, match="as the system says it"):
        await once(make(), "nobody.example.com:1")


PLACE = Path(__file__).parents[3]


def some(how: str) -> bool:
    return how in ("records", "truncated")


def nothing(how: str) -> bool:
    return how in ("nodata", "nxdomain")


def test_what_the_system_makes_of_every_pair_of_answers(tmp_path: Path) -> None:
    """In namespaces of its own, whose /etc/resolv.conf names the name server of the test."""
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    inside = f"ip link set lo up && mount --bind {conf} /etc/resolv.conf"
    if (
        sys.platform != "linux"
        or subprocess.run(["unshare", "-rmn", "sh", "-c", inside], check=False).returncode
    ):
        pytest.skip("this machine lets nobody make namespaces")
    command = f"{inside} && exec {sys.executable} -m tests.discovery.selectors.name_server"
    run = subprocess.run(
        ["unshare", "-rmn", "sh", "-c", command],
        cwd=PLACE,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    told = dict(line.split(" ", 1) for line in run.stdout.splitlines())
    expected = {}
    for a in HOWS:
        for aaaa in HOWS:
            if some(a):
                expected[f"{a}-{aaaa}"] = "127.0.0.7"  # ::2 has no route there, and one each is a tie
            elif some(aaaa):
                expected[f"{a}-{aaaa}"] = "::1"
            else:
                expected[f"{a}-{aaaa}"] = "none" if nothing(a) and nothing(aaaa) else "failure"
    assert told == expected


async def test_mute_name_servers_take_no_thread_of_anybody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    speak = threading.Event()
    all_asked = threading.Event()

    def mute(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        asked.append(host)
        if len(asked) == 100:
            all_asked.set()
        speak.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", mute)
    monkeypatch.setattr("pymicro.discovery.selectors.dns._TIMEOUT", 0.3)
    selector = make()
    names = [f"greeter-{number}.example.com:80" for number in range(50)]
    try:
        looking = [asyncio.create_task(once(selector, name)) for name in names]
        assert await asyncio.wait_for(asyncio.to_thread(all_asked.wait, 5), PATIENCE)
        await asyncio.gather(*looking, return_exceptions=True)
        # A second look while the first question is still under way asks nothing.
        again = await asyncio.gather(*(once(selector, name) for name in names), return_exceptions=True)
        assert all(isinstance(one, RegistryError) for one in again)
        assert len(asked) == 100
    finally:
        speak.set()
        for thread in threading.enumerate():
            if thread.name.startswith("pymicro dns"):
                thread.join()


async def test_no_thread_to_ask_in_keeps_the_set(monkeypatch: pytest.MonkeyPatch) -> None:
    start, without = threading.Thread.start, threading.Event()

    def no_more(thread: threading.Thread) -> None:
        if without.is_set():
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_more)
    selector = make(interval=0.02, least=0.01)
    sets = selector.watch("localhost:1")
    nodes = await first(sets, within=PATIENCE)
    without.set()
    more = asyncio.ensure_future(anext(sets))
    async with asyncio.timeout(PATIENCE):
        while "can't start new thread" not in selector.describe("localhost:1"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not more.done()
    without.clear()
    assert await asyncio.wait_for(more, PATIENCE) == nodes
    await sets.aclose()


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

NAME = "_greeter._tcp.local"


def records_of(*targets: str, **addresses: list[str]) -> dict[tuple[str, str], Answer]:
    """SRV records of the service greeter, and A records of their targets."""
    return {(NAME, "SRV"): list(targets)} | {
        (f"{host}.example.com", "A"): ips for host, ips in addresses.items()
    }


def asking(server: NameServer, **options: Any) -> DnsSelector:
    return make(resolver=server.resolver, **options)


async def test_srv_records_name_hosts_and_ports() -> None:
    records = records_of(
        "10 5 8080 a.example.com.",
        "10 0 9090 b.example.com.",
        "10 0 9091 b.example.com.",
        a=["10.0.0.1", "10.0.0.2"],
        b=["10.0.0.3"],
    )
    async with serving(records) as server:
        nodes = await once(asking(server), "greeter")
    assert addresses(nodes) == {"10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:9090", "10.0.0.3:9091"}
    # Never with the search list: the owner of its domain could answer.
    assert {name for name, _ in server.asked} == {NAME, "a.example.com", "b.example.com"}


async def test_targets_that_do_not_exist_are_not_looked_for_elsewhere() -> None:
    records = records_of("10 0 80 db.shop.test.") | {("db.shop.test.attacker.test", "A"): ["6.6.6.6"]}
    async with serving(records) as server:
        assert await once(asking(server), "greeter") == EMPTY
    assert {name for name, _ in server.asked} == {NAME, "db.shop.test"}


async def test_only_targets_of_the_best_priority_count() -> None:
    records = records_of("20 0 80 a.example.com.", "10 0 80 b.example.com.", a=["10.0.0.1"], b=["10.0.0.2"])
    async with serving(records) as server:
        assert addresses(await once(asking(server), "greeter")) == {"10.0.0.2:80"}


async def test_the_domain_and_whole_srv_names_can_be_given() -> None:
    environ = {"DNS_SELECTOR_DOMAIN_NAME": "example.com."}
    async with serving() as server:
        await once(asking(server, environ=environ), "greeter")
        await once(asking(server, environ=environ), "_grpc._tcp.greeter.default.svc.cluster.local")
    names = ["_greeter._tcp.example.com", "_grpc._tcp.greeter.default.svc.cluster.local"]
    assert [name for name, _ in server.asked] == names


async def test_no_srv_record_is_no_node() -> None:
    answers: dict[tuple[str, str], Answer] = {("_not-offered._tcp.local", "SRV"): ["0 0 0 ."]}
    async with serving(answers) as server:
        assert await once(asking(server), "not-offered") == EMPTY


@pytest.mark.parametrize("how", HOWS)
async def test_every_answer_about_srv_records(how: str) -> None:
    async with serving(records_of(a=["10.0.0.1"]) | {(NAME, "SRV"): how}) as server:
        server.records[NAME, "SRV"] = ["10 0 80 a.example.com."]
        if some(how):
            assert addresses(await once(asking(server), "greeter")) == {"10.0.0.1:80"}
            assert bool(server.tcp) is (how == "truncated")
        elif nothing(how):
            assert await once(asking(server), "greeter") == EMPTY
        else:
            with pytest.raises(RegistryError, match=r"SRV _greeter\._tcp\.local"):
                await once(asking(server), "greeter")


@pytest.mark.parametrize("a", HOWS)
@pytest.mark.parametrize("aaaa", HOWS)
async def test_every_pair_of_answers_about_a_target(a: str, aaaa: str) -> None:
    records = records_of("10 0 80 x.example.com.") | {
        ("x.example.com", "A"): a,
        ("x.example.com", "AAAA"): aaaa,
    }
    async with serving(records) as server:
        server.records["x.example.com", "A"] = ["127.0.0.7", "127.0.0.8"]
        server.records["x.example.com", "AAAA"] = ["::1"]
        if some(a):
            assert addresses(await once(asking(server), "greeter")) == {"127.0.0.7:80", "127.0.0.8:80"}
        elif some(aaaa):
            assert addresses(await once(asking(server), "greeter")) == {"[::1]:80"}
        elif nothing(a) and nothing(aaaa):
            assert await once(asking(server), "greeter") == EMPTY
        else:
            with pytest.raises(RegistryError, match=r"x\.example\.com"):
                await once(asking(server), "greeter")


async def test_a_failure_of_one_family_does_not_empty_a_set_that_works() -> None:
    records = records_of("10 0 80 a.example.com.", a=["10.0.0.1"]) | {("a.example.com", "AAAA"): "nodata"}
    async with serving(records) as server:
        selector = asking(server, interval=0.02, least=0.01)
        sets = selector.watch("greeter")
        nodes = await first(sets, within=PATIENCE)
        server.answers["a.example.com", "A"] = "servfail"
        more = asyncio.ensure_future(anext(sets))
        async with asyncio.timeout(PATIENCE):
            while "last failed" not in selector.describe("greeter"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not more.done()
        server.answers["a.example.com", "A"] = ["10.0.0.1"]
        assert await asyncio.wait_for(more, PATIENCE) == nodes
        await sets.aclose()


async def test_one_target_that_cannot_be_resolved_now_fails_the_look_up() -> None:
    records = records_of("10 0 80 a.example.com.", "10 0 80 b.example.com.", a=["10.0.0.1"])
    async with serving(records | {("b.example.com", "A"): "servfail"}) as server:
        with pytest.raises(RegistryError, match=r"b\.example\.com"):
            await once(asking(server), "greeter")


async def test_records_are_looked_up_again_when_their_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymicro.discovery.selectors.dns._LEAST_TTL", 0.05)
    async with serving(records_of("10 0 80 a.example.com.", a=["10.0.0.1"])) as server:
        server.ttl = 0
        sets = asking(server, interval=3600.0, least=0.01).watch("greeter")
        assert addresses(await first(sets, within=PATIENCE)) == {"10.0.0.1:80"}
        server.answers["a.example.com", "A"] = ["10.0.0.2"]
        assert addresses(await first(sets, within=PATIENCE)) == {"10.0.0.2:80"}
        await sets.aclose()


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
