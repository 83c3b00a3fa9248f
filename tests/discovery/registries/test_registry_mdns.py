"""Registry `mdns` as its users meet it: settings, crashes and lost packets, messages, the command line."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from pymicro.base.errors import ConfigError, PluginError, RegistryError
from pymicro.discovery.registries.local.json import dump_node
from pymicro.discovery.registries.mdns import MdnsRegistry, MdnsTiming, messages
from pymicro.discovery.registries.mdns.interfaces import Interface, place
from pymicro.discovery.registries.mdns.watch import MdnsWatch
from pymicro.nodes.node import Node, NodeSet
from pymicro.settings.config import load
from pymicro.testing.waiting import closed, expect, first
from tests.discovery.registries.mdns_support import PATIENCE, free_port, make, node, peer, said
from tests.processes import Processes

OWNER = str(Path(__file__).with_name("mdns_owner.py"))


def registry_at(*address: str) -> MdnsRegistry:
    return MdnsRegistry(load({"registry_address": list(address)}, environ={}))


# Where it is spoken


@pytest.mark.parametrize(
    ("address", "host", "port", "text"),
    [
        ((), "127.0.0.1", 5353, "127.0.0.1"),
        (("eth0",), "eth0", 5353, "eth0"),
        (("eth0:5354",), "eth0", 5354, "eth0:5354"),
        (("192.168.1.7",), "192.168.1.7", 5353, "192.168.1.7"),
        (("[fd00::7]",), "fd00::7", 5353, "fd00::7"),
        (("::1",), "::1", 5353, "::1"),
        (("[::1]:5354",), "::1", 5354, "[::1]:5354"),
        ((":5354",), "127.0.0.1", 5354, "127.0.0.1:5354"),
    ],
)
def test_an_address_is_an_interface_and_perhaps_a_port(
    address: tuple[str, ...], host: str, port: int, text: str
) -> None:
    found = place(address)
    assert (found.host, found.port, str(found)) == (host, port, text)
    assert registry_at(*address).describe() == f"registry mdns ({text})"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (("eth0", "eth1"), "one interface, not 2: eth0, eth1"),
        (("eth0:mdns",), "'mdns' is no port"),
        (("127.0.0.1:0",), "0 is no port"),
        (("[::1",), "closing bracket"),
        (("a b",), "no interface"),
        (("mdns://eth0",), "'//eth0' is no port"),
    ],
)
def test_an_address_that_can_be_none_is_refused(address: tuple[str, ...], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        registry_at(*address)


@pytest.mark.parametrize("host", ["nosuch0", "203.0.113.9", "fd99::9"])
async def test_an_interface_that_is_not_there_is_an_error_that_lists_those_that_are(host: str) -> None:
    registry = registry_at(host)
    with pytest.raises(ConfigError, match=rf"no interface.*{host}.*lo \(127\.0\.0\.1"):
        registry.advertised_host()
    with pytest.raises(ConfigError, match=rf"no interface.*{host}.*lo \(127\.0\.0\.1"):
        await registry.__aenter__()


def test_the_loopback_interface_is_found_by_its_name_and_all_its_addresses() -> None:
    named = Interface.find("lo")
    assert (named.address, named.loopback) == ("127.0.0.1", True)
    assert named.index == socket.if_nametoindex("lo")
    assert Interface.find("127.8.9.10").name == "lo"
    assert registry_at("127.8.9.10").advertised_host() == "127.8.9.10"
    assert registry_at().advertised_host() == "127.0.0.1"


def lan(*networks: str) -> Interface:
    interfaces = [ip_interface(network) for network in networks]
    addresses = tuple(str(interface.ip) for interface in interfaces)
    return Interface(
        "eth0", 2, addresses[0], addresses, tuple(interface.network for interface in interfaces), False
    )


def test_packets_from_beyond_a_router_are_not_heard() -> None:
    interface = lan("192.168.1.7/24", "fd00::7/64", "203.0.113.5/32")
    for near in ("192.168.1.200", "fd00::9", "fe80::1%eth0", "169.254.7.7"):
        assert interface.reaches(near), near
    for far in ("192.168.2.7", "8.8.8.8", "203.0.113.5", "fd01::7"):
        assert not interface.reaches(far), far
    # A tunnel names no network.
    assert lan("10.0.0.1/32").reaches("10.0.0.2")
    assert Interface.find("lo").reaches("192.168.1.7")


async def test_a_loopback_address_is_no_address_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    loopback = Interface.find("lo")

    def find(host: str) -> Interface:
        return Interface("eth0", loopback.index, "127.0.0.1", ("192.168.1.7",), loopback.networks, False)

    monkeypatch.setattr(Interface, "find", find)
    async with make(free_port()) as registry:
        with pytest.raises(
            ConfigError, match=r"127\.0\.0\.1:20001, which no other machine can dial.*0\.0\.0\.0:0"
        ):
            await registry.register(node())
        await registry.register(node(2, address="192.168.1.7:80"))


async def test_a_missing_zeroconf_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    messages.require_zeroconf.cache_clear()
    try:
        with pytest.raises(PluginError, match=r"pip install 'pymicro-grpc\[mdns\]'"):
            registry_at()
    finally:
        messages.require_zeroconf.cache_clear()


# What can be carried


UUID = "4e18975a-cfb0-4e0b-9d6a-0f6a7d0b1c11"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"id": f"{'a' * 27}-{UUID}"}, "has a part of 64 bytes.*26 bytes after its last dot.*server_id"),
        ({"service": "go.micro.srv." + "ö" * 32}, "'ö+' *: between dots 63 are the most"),
        ({"service": "go..srv"}, "empty part before or after a dot"),
        ({"service": ".srv"}, "empty part before or after a dot"),
        ({"service": ""}, "the service's name is empty"),
        ({"service": "_services"}, "list of services"),
        ({"service": "a\nb"}, "cannot be printed"),
        ({"service": "\ud800"}, "cannot be printed"),
        ({"service": ".".join(["a" * 60] + ["a" * 58] * 3)}, "a DNS name of 254 bytes: 253 are the most"),
        ({"id": ".".join(["a" * 59] * 4)}, "the node's id.*a DNS name of 254 bytes: 253"),
        ({"id": ""}, "the node's id is empty"),
        ({"address": "greeter.example.com:80"}, "no IP address.*server_advertise"),
        ({"address": "[fe80::1%eth0]:80"}, "no IP address"),
        ({"address": "10.0.0.1"}, "has no port"),
        ({"address": "10.0.0.1:0"}, "no IP address with a port"),
    ],
)
async def test_what_mdns_cannot_carry_is_refused(changes: dict[str, Any], why: str) -> None:
    async with make(free_port()) as registry:
        with pytest.raises(ConfigError, match=why):
            await registry.register(node(**changes))
        assert "registered=0" in repr(registry)


async def test_the_longest_names_are_carried() -> None:
    for service, node_id in [
        ("a" * 26, f"{'a' * 26}-{UUID}"),
        ("go.micro.srv." + "a" * 26, f"go.micro.srv.{'a' * 26}-{UUID}"),
        (".".join(["a" * 59] + ["a" * 58] * 3), "x"),
        ("ö" * 31, "ö" * 31),
        ("x", ".".join(["b" * 61] + ["b" * 60] * 3)),
    ]:
        port = free_port()
        async with make(port) as registry:
            wanted = node(service=service, id=node_id)
            await registry.register(wanted)
            sets = registry.watch(service)
            assert await first(sets, within=PATIENCE) == NodeSet.of([wanted])
            assert await registry.services() == [service]
            await closed(sets)


async def test_a_service_that_no_node_can_have_cannot_be_watched() -> None:
    async with make(free_port()) as registry:
        with pytest.raises(RegistryError, match=r"registry mdns.*empty part"):
            await anext(registry.watch("a..b"))


# The first set


async def test_the_first_set_waits_while_answers_come() -> None:
    port = free_port()
    timing = MdnsTiming(quiet=0.1, answer=10.0)
    async with make(port, timing=timing) as registry, peer(port) as speaker:
        sets = registry.watch("greeter")
        watching = asyncio.ensure_future(first(sets, within=PATIENCE))
        asked = await speaker.group.next_question()
        for number in range(8):
            asyncio.get_running_loop().call_later(
                number * 0.05, lambda packet: speaker.tell(packet, to=asked.source), said(number)
            )
        assert await watching == NodeSet.of(node(number) for number in range(8))
        await closed(sets)


async def test_a_first_question_that_got_lost_is_asked_again_before_a_set_is_empty() -> None:
    port = free_port()
    timing = MdnsTiming(empty=5.0, answer=10.0)
    async with make(port, timing=timing) as registry, peer(port) as speaker:
        sets = registry.watch("greeter")
        watching = asyncio.ensure_future(first(sets, within=PATIENCE))
        await speaker.group.next_question()
        asked = await speaker.group.next_question()
        speaker.tell(said(), to=asked.source)
        assert await watching == NodeSet.of([node()])
        await closed(sets)


# Who answers no more


SLOW = MdnsTiming(answer=0.2, first=0.2, longest=0.2)


async def counted(sets: AsyncIterator[NodeSet], sizes: Counter[int]) -> None:
    """Count the sets of a watch by their size."""
    async for nodes in sets:
        sizes[len(nodes)] += 1


async def test_a_node_stays_that_answers_one_question_in_four() -> None:
    port = free_port()
    sizes: Counter[int] = Counter()
    async with make(port, timing=SLOW) as registry, peer(port) as speaker:
        sets = registry.watch("greeter")
        watching = asyncio.create_task(counted(sets, sizes))
        for number in range(6):
            asked = await speaker.group.next_question()
            if not number % 4:
                speaker.tell(said(), to=asked.source)
        watching.cancel()
        await asyncio.wait([watching])
        await closed(sets)
    assert sizes[1] >= 4
    assert set(sizes) == {1}


GONE = 0


@pytest.fixture
def misses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions the only node had missed after each that it missed; `GONE` when it was given up.

    Questions on the wire cannot be counted for this: one that was asked while this process was busy
    is asked again.
    """
    found: list[int] = []
    judge = MdnsWatch._judge

    def judging(watched: MdnsWatch) -> int:
        before = {name: entry.missed for name, entry in watched._entries.items()}
        longest = judge(watched)
        after = {name: entry.missed for name, entry in watched._entries.items()}
        if before != after:
            found.append(sum(after.values()) if after else GONE)
        return longest

    monkeypatch.setattr(MdnsWatch, "_judge", judging)
    return found


async def test_a_node_leaves_after_four_questions_without_an_answer(misses: list[int]) -> None:
    port = free_port()
    async with make(port, timing=SLOW) as registry, peer(port) as speaker:
        sets = registry.watch("greeter")
        watching = asyncio.ensure_future(expect(sets, [node()], within=PATIENCE))
        while not watching.done():
            asked = asyncio.ensure_future(speaker.group.next_question())
            await asyncio.wait([asked, watching], return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                speaker.tell(said(), to=asked.result().source)
        asked.cancel()
        await asyncio.wait([asked])
        await expect(sets, [], within=PATIENCE)
        await closed(sets)
    # The last answers may have come only after one or two were missed.
    assert misses[-4:] == [1, 2, 3, GONE]


async def test_watches_that_come_all_the_time_do_not_keep_a_node_that_is_gone() -> None:
    port = free_port()
    async with make(port) as registry, peer(port) as speaker:
        sets = registry.watch("greeter")
        watching = asyncio.ensure_future(expect(sets, [node()], within=PATIENCE))
        while not watching.done():
            asked = await speaker.group.next_question()
            speaker.tell(said(), to=asked.source)
            await asyncio.wait([watching], timeout=0.1)
        gone = asyncio.ensure_future(expect(sets, [], within=PATIENCE))

        async def come_and_go() -> None:
            while not gone.done():
                another = registry.watch("greeter")
                await first(another, within=PATIENCE)
                await closed(another)

        one = asyncio.create_task(come_and_go())
        while not speaker.group.packets.empty():
            speaker.group.packets.get_nowait()
        await speaker.group.next_question()
        # While one waits for its first set, another comes; and so on.
        await asyncio.gather(gone, one, come_and_go())
        await closed(sets)


async def test_what_is_announced_is_seen_long_before_the_next_question() -> None:
    port = free_port()
    async with make(port, timing=MdnsTiming(answer=60.0)) as registry, make(port) as other:
        sets = registry.watch("greeter")
        assert await first(sets, within=PATIENCE) == NodeSet()
        await other.register(node())
        await expect(sets, [node()], within=PATIENCE)
        await other.deregister(node())
        await expect(sets, [], within=PATIENCE)
        await closed(sets)


async def test_a_node_whose_time_is_over_leaves_with_the_first_question_that_it_does_not_answer(
    misses: list[int],
) -> None:
    port = free_port()
    async with make(port, timing=MdnsTiming(answer=0.3, first=1.2)) as registry, peer(port) as speaker:
        sets = registry.watch("greeter")
        watching = asyncio.ensure_future(expect(sets, [node()], within=PATIENCE))
        asked = await speaker.group.next_question()
        speaker.tell(said(ttl=1), to=asked.source)
        await watching
        await expect(sets, [], within=PATIENCE)
        await closed(sets)
    assert misses == [GONE]


async def test_a_process_that_was_busy_itself_gives_nobody_up() -> None:
    port = free_port()
    # So impatient that a node leaves with the first question that it does not answer.
    timing = MdnsTiming(answer=0.2, first=0.1, longest=0.1, unanswered=1)
    # More than are read before the loop's timers get their turn.
    answers = [said(number) for number in range(100)]
    sizes: Counter[int] = Counter()
    async with make(port, timing=timing) as registry, peer(port) as speaker:
        sets = registry.watch("greeter")
        watching = asyncio.create_task(counted(sets, sizes))
        for busy in (False, True, False, False):
            asked = await speaker.group.next_question()
            speaker.tell(*answers, to=asked.source)
            if busy:
                stand_still()
        watching.cancel()
        await asyncio.wait([watching])
        await closed(sets)
    assert sizes[100] >= 2
    assert set(sizes) == {100}


def stand_still() -> None:
    """Hold up the event loop: nothing is heard meanwhile, and every timer is late."""
    time.sleep(0.4)


async def test_questions_become_rarer_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    # The pauses that are meant: on a busy machine those on the wire are longer.
    pauses: list[float] = []
    somebody_joins = MdnsWatch._somebody_joins

    async def joining(watched: MdnsWatch, until: float) -> bool:
        pause = until - asyncio.get_running_loop().time()
        if pause > watched.timing.answer:  # else it is an answer that is waited for
            pauses.append(pause)
        return await somebody_joins(watched, until)

    monkeypatch.setattr(MdnsWatch, "_somebody_joins", joining)
    port = free_port()
    timing = MdnsTiming(answer=0.05, first=0.1, longest=0.4)
    async with make(port, timing=timing) as registry, peer(port) as listener:
        await registry.register(node())
        sets = registry.watch("greeter")
        await expect(sets, [node()], within=PATIENCE)
        while len(pauses) < 5:
            await listener.group.next_question()
        await closed(sets)
    for pause, meant in zip(pauses, (0.1, 0.2, 0.4, 0.4), strict=False):
        assert pause == pytest.approx(meant, rel=0.11), pauses


async def test_the_last_watch_ends_the_questions() -> None:
    async with make(free_port()) as registry:
        one, two = registry.watch("greeter"), registry.watch("greeter")
        await asyncio.gather(first(one, within=PATIENCE), first(two, within=PATIENCE))

        def asking() -> int:
            return sum("questions for greeter" in task.get_name() for task in asyncio.all_tasks())

        assert asking() == 1
        await closed(one)
        assert asking() == 1
        await closed(two)
        assert asking() == 0


async def test_an_unchanged_set_is_confirmed_each_time_that_was_asked() -> None:
    async with make(free_port()) as registry:
        await registry.register(node())
        sets = registry.watch("greeter")
        for _ in range(3):
            assert await first(sets, within=PATIENCE) == NodeSet.of([node()])
        await closed(sets)


# Processes


@contextlib.asynccontextmanager
async def owner(port: int, *nodes: Node) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that registers `nodes`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        OWNER,
        f"127.0.0.1:{port}",
        *(dump_node(one).decode() for one in nodes),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_processes_find_each_other_and_miss_those_who_are_killed() -> None:
    port = free_port()
    async with (
        owner(port, node(1), node(2), node(1, "other")) as one,
        owner(port, node(3)),
        make(port) as registry,
    ):
        assert await registry.services() == ["greeter", "other"]
        sets = registry.watch("greeter")
        assert await first(sets, within=PATIENCE) == NodeSet.of([node(1), node(2), node(3)])
        one.kill()
        await expect(sets, [node(3)], within=PATIENCE)
        assert await registry.services() == ["greeter"]
        await closed(sets)


def test_a_service_that_runs_with_mdns_is_called_through_it(processes: Processes) -> None:
    port = free_port()
    settings = {"MICRO_REGISTRY": "mdns", "MICRO_REGISTRY_ADDRESS": f"127.0.0.1:{port}"}
    server = processes.pymicro("run", "examples/greeter/server.py", **settings)
    server.wait_for(r"greeter .*127\.0\.0\.1:(\d+)")
    call = processes.pymicro("call", "greeter", "Greeter.SayHello", '{"name": "Ada"}', **settings)
    assert call.wait() == 0, call.report()
    assert any("Hello Ada" in line for line in call.stdout), call.report()
    # A goodbye, and then nobody.
    assert server.stop() == 0
    call = processes.pymicro("call", "greeter", "Greeter.SayHello", "{}", **settings)
    assert call.wait() != 0
    assert any(f"registry mdns (127.0.0.1:{port})" in line for line in call.stderr), call.report()


# doctor


async def findings(registry: MdnsRegistry, service: str) -> list[tuple[str, str, str]]:
    return [(found.check, found.level, found.text) async for found in registry.diagnose(service)]


async def test_doctor_is_told_who_answers() -> None:
    port = free_port()
    async with make(port) as registry:
        await registry.register(node())
        found = await findings(registry, "greeter")
        assert [(check, level) for check, level, _ in found] == [
            ("multicast", "ok"),
            ("interface", "note"),
            ("services", "ok"),
            ("nodes", "ok"),
        ]
        assert found[0][2] == f"our own question comes back on lo (127.0.0.1, UDP port {port})"
        assert found[2][2] == "greeter answered"
        assert found[3][2] == "1 node of greeter answered"
        *_, missing = await findings(registry, "gretter")
        assert missing[:2] == ("nodes", "problem")
        assert "did you mean 'greeter'?" in missing[2]
        *_, impossible = await findings(registry, "a..b")
        assert impossible[:2] == ("name", "problem")
        assert [check for check, _, _ in await findings(registry, "")] == [
            "multicast",
            "interface",
            "services",
        ]


async def test_two_processes_with_one_id_say_so_and_doctor_too(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    one, other = node(), dataclasses.replace(node(), address="127.0.0.1:20099")
    async with make(port) as first_one, make(port) as second, make(port) as doctor:
        await first_one.register(one)
        assert "another process" not in caplog.text
        await second.register(other)
        await first_one.register(one)
        async with asyncio.timeout(PATIENCE):
            while caplog.text.count("another process answers for greeter-1 of greeter") < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        # Each of them, once, however often they are heard.
        await second.register(other)
        assert caplog.text.count("another process answers for") == 2
        problems = [finding async for finding in doctor.diagnose("greeter") if finding.level == "problem"]
        (problem,) = problems
        assert "127.0.0.1:20001, 127.0.0.1:20099" in problem.text
        assert "server_id" in problem.fix


async def test_a_node_that_restarts_under_its_id_is_no_second_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    async with make(port) as watcher, aclosing(watcher.watch("greeter")) as sets:
        async with make(port) as old:
            await old.register(node())
            await expect(sets, [node()], within=PATIENCE)
        again = dataclasses.replace(node(), address="127.0.0.1:20099")
        async with make(port) as new:
            await new.register(again)
            await expect(sets, [again], within=PATIENCE)
            assert not [one async for one in watcher.diagnose("greeter") if one.level == "problem"]
    assert "another process" not in caplog.text


async def test_doctor_is_told_when_multicast_does_not_work() -> None:
    port = free_port()
    async with make(port) as registry:
        deaf(registry)
        ((check, level, text),) = await findings(registry, "greeter")
        assert (check, level) == ("multicast", "problem")
        assert "our own questions do not come back" in text


def deaf(registry: MdnsRegistry) -> None:
    """Take the registry's socket out of the group, as the kernel does when an interface goes."""
    group = registry._link._group
    assert group is not None
    membership = socket.inet_aton("224.0.0.251") + socket.inet_aton("127.0.0.1")
    group.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, membership)


async def test_a_renewed_registration_mends_a_link_that_went_deaf() -> None:
    port = free_port()
    async with make(port) as registry, peer(port) as asker:
        await registry.register(node())
        deaf(registry)
        await registry.register(node())
        asker.ask("greeter.micro.")
        (answer,) = await asker.answers(1)
        assert answer.of("SRV").port == 20001


async def test_a_registry_that_was_left_can_be_entered_again() -> None:
    registry = make(free_port())
    for _ in range(2):
        async with registry:
            await registry.register(node())
            assert await registry.services() == ["greeter"]
        with pytest.raises(RuntimeError, match="outside its `async with`"):
            await registry.services()


def test_one_instance_serves_one_event_loop_after_the_other() -> None:
    registry = make(free_port())

    async def use() -> None:
        async with registry:
            await registry.register(node())

    async def several() -> None:
        await asyncio.gather(use(), use(), use())

    asyncio.run(several())
    asyncio.run(several())


async def test_a_watch_ends_with_an_error_when_the_registry_is_left() -> None:
    async with make(free_port()) as registry:
        sets = registry.watch("greeter")
        await first(sets, within=PATIENCE)
    with pytest.raises(RegistryError, match="is closed"):
        async with asyncio.timeout(PATIENCE):
            async for _ in sets:
                pass
