"""Registry `etcd` in whole programs: a service of the command line, and what doctor says."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pymicro.base.findings import Finding
from pymicro.discovery.registries.etcd import EtcdRegistry
from tests.discovery.registries.etcd_support import ROOT, etcd_registry, node, record
from tests.etcd_server import Cluster, Etcd
from tests.processes import Processes, clean_environment

SERVER = "examples/greeter/server.py"
NOBODY = "127.0.0.1:1"


@pytest.fixture
def programs(etcd: Etcd) -> Iterator[Processes]:
    started = Processes(
        clean_environment(MICRO_REGISTRY="etcd", MICRO_REGISTRY_ADDRESS=etcd.address, MICRO_DRAIN_DELAY="0")
    )
    yield started
    started.end()


def test_a_service_is_called_through_etcd_and_takes_its_key_back_at_sigterm(
    etcd: Etcd, programs: Processes
) -> None:
    service = programs.pymicro("run", SERVER, MICRO_LOG_LEVEL="debug")
    service.wait_for(r" on 127\.0\.0\.1:\d+, registered$")
    service.wait_for(rf"greeter: registry etcd \({etcd.address}\), selector ")
    ((key, (value, lease)),) = etcd.entries().items()
    written = json.loads(value)
    assert key == f"{ROOT}greeter/{written['nodes'][0]['id']}"
    assert written["nodes"][0]["metadata"]["protocol"] == "grpc"
    assert lease
    call = programs.pymicro("call", "greeter", "Greeter.SayHello", '{"name": "Ada"}')
    assert call.wait() == 0, call.report()
    assert "Hello Ada" in "\n".join(call.stdout)
    doctor = programs.pymicro("doctor", "greeter")
    assert doctor.wait() == 0, doctor.report()
    assert service.stop() == 0
    assert etcd.entries() == {}
    assert lease not in etcd.leases()


def test_a_service_without_etcd_starts_and_says_what_is_wrong(programs: Processes) -> None:
    service = programs.pymicro("run", SERVER, MICRO_REGISTRY_ADDRESS=NOBODY)
    service.wait_for(
        rf"could not be registered: registry etcd: cannot get a lease of 60 s: {NOBODY}: Connection refused"
    )
    service.wait_for(r" on 127\.0\.0\.1:\d+, not yet registered$")
    assert service.stop() == 0
    assert "Traceback" not in service.report()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MICRO_REGISTRY_ADDRESS": "http://10.0.0.1/x"}, "there is something behind host and port"),
        (
            {"MICRO_REGISTRY_TLS_CA": "/nowhere.pem"},
            "registry_tls_ca: /nowhere.pem cannot be read: No such file or directory",
        ),
        ({"MICRO_REGISTRY_ADDRESS": "10.255.255.1"}, "which nobody else can reach: listen on 0.0.0.0"),
    ],
)
def test_settings_that_cannot_be_used_are_one_message_and_code_2(
    programs: Processes, settings: dict[str, str], message: str
) -> None:
    service = programs.pymicro("run", SERVER, **settings)
    assert service.wait() == 2, service.report()
    assert message in service.report()
    assert "Traceback" not in service.report()


# What doctor says


async def findings(registry: EtcdRegistry, service: str = "greeter") -> list[Finding]:
    async with registry:
        return [finding async for finding in registry.diagnose(service)]


def brief(found: list[Finding]) -> list[tuple[str, str, str]]:
    return [(one.check, one.level, one.text) for one in found]


def answering(etcd: Etcd) -> tuple[str, str, str]:
    version = etcd.ask("maintenance/status", {})["version"]
    return f"endpoint {etcd.address}", "ok", f"etcd {version} answers and leads"


async def test_all_is_well(etcd: Etcd) -> None:
    async with etcd_registry(etcd.address) as registry:
        await registry.register(node(1))
        await registry.register(node(2))
        await registry.register(node(1, "shop"))
        assert brief(await findings(etcd_registry(etcd.address))) == [
            answering(etcd),
            ("keys", "ok", "3 under /micro/registry/: greeter, shop"),
            ("nodes", "ok", "2 nodes of greeter under /micro/registry/greeter/"),
        ]
        assert brief(await findings(etcd_registry(etcd.address), "")) == [
            answering(etcd),
            ("keys", "ok", "3 under /micro/registry/: greeter, shop"),
        ]


async def test_a_service_that_is_not_there_is_told_with_the_nearest(etcd: Etcd) -> None:
    async with etcd_registry(etcd.address) as registry:
        await registry.register(node(1, "greeter"))
        *_, last = await findings(etcd_registry(etcd.address), "greter")
    assert brief([last]) == [
        (
            "nodes",
            "problem",
            "there is no node of greter under /micro/registry/greter/; did you mean 'greeter'?",
        )
    ]
    assert "MICRO_REGISTRY=etcd" in last.fix


async def test_values_that_cannot_be_read_and_names_that_collide_are_told(etcd: Etcd) -> None:
    etcd.put(f"{ROOT}a-b/bad", "{}")
    etcd.put(f"{ROOT}a-b/other", record([{"id": "n", "address": "10.0.0.1:80"}], "a-b"))
    _, keys, bad, name, nodes = await findings(etcd_registry(etcd.address), "a/b")
    assert brief([keys, bad, name, nodes]) == [
        ("keys", "note", "2 under /micro/registry/: a-b; 1 cannot be read"),
        ("key '/micro/registry/a-b/bad'", "problem", "does not count: 'name' is null and no text"),
        (
            "name",
            "note",
            "'a-b' has the same keys /micro/registry/a-b/* (/ is written as -): told apart by the records",
        ),
        ("nodes", "problem", "there is no node of a/b under /micro/registry/a-b/; did you mean 'a-b'?"),
    ]
    assert bad.fix.startswith("etcdctl get /micro/registry/a-b/bad shows it")


async def test_an_etcd_without_space_is_a_problem(tmp_path: Path) -> None:
    with Etcd(tmp_path, arguments=["--quota-backend-bytes=200000"]) as full:
        with pytest.raises(AssertionError, match="space exceeded"):
            for number in range(100):
                full.put(f"/filler/{number}", "x" * 100_000)
        member, *_ = await findings(etcd_registry(full.address))
    assert member.level == "problem"
    assert "alarm NOSPACE" in member.text
    assert "etcdctl alarm disarm" in member.fix


async def test_an_etcd_whose_data_is_corrupt_is_a_problem(tmp_path: Path) -> None:
    with Etcd(tmp_path) as etcd:
        member = etcd.ask("maintenance/status", {})["header"]["member_id"]
        etcd.ask("maintenance/alarm", {"action": "ACTIVATE", "memberID": member, "alarm": "CORRUPT"})
        found, *_ = await findings(etcd_registry(etcd.address))
    assert found.level == "problem"
    assert "alarm:CORRUPT" in found.text
    assert "etcdctl alarm list" in found.fix


async def test_two_processes_with_one_id_are_told(etcd: Etcd) -> None:
    async with etcd_registry(etcd.address) as first, etcd_registry(etcd.address) as second:
        own, other = node(1), node(1, address="127.0.0.1:20009")
        await first.register(own)
        await second.register(other)
        # So far it may be one process that crashed and came back.
        assert problems(await findings(etcd_registry(etcd.address))) == []
        await first.register(own)
        (found,) = problems(await findings(etcd_registry(etcd.address)))
        assert (found.check, found.fix) == ("ids", "give each a server_id of its own, or none")
        assert "'/micro/registry/greeter/greeter-1' in turn (127.0.0.1:20001, 127.0.0.1:20009)" in found.text
        await second.register(other)
        (found,) = problems(await findings(etcd_registry(etcd.address)))
        assert "in turn (127.0.0.1:20009, 127.0.0.1:20001)" in found.text
        # etcd has forgotten what was there before: then nobody can tell.
        etcd.compact()
        assert problems(await findings(etcd_registry(etcd.address))) == []


async def test_a_process_that_starts_again_and_again_under_its_id_is_one(etcd: Etcd) -> None:
    for number in range(4):
        async with etcd_registry(etcd.address) as registry:
            await registry.register(node(1, address=f"127.0.0.1:{20001 + number % 2}"))
            await registry.register(node(1, address=f"127.0.0.1:{20001 + number % 2}", version="2"))
            assert problems(await findings(etcd_registry(etcd.address))) == []


def problems(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.level == "problem"]


async def test_a_key_is_pasted_as_one_word_or_not_at_all(etcd: Etcd) -> None:
    keys = ["a-b/x;touch y", "a-b/$(reboot)", "a-b/a\nreboot", "a-b/a\u202eb", "a-b/" + "x" * 300]
    for key in keys:
        etcd.put(f"{ROOT}{key}", "{}")
    found = await findings(etcd_registry(etcd.address), "a/b")
    fixes = {finding.check: finding.fix for finding in found if finding.check.startswith("key ")}
    assert len(fixes) == len(keys)
    pasted = [shlex.split(fix.partition(" shows it")[0]) for fix in fixes.values() if fix]
    assert sorted(pasted) == [["etcdctl", "get", f"{ROOT}{key}"] for key in sorted(keys[:2])]
    assert not any("\n" in check or "\u202e" in check for check in fixes)


async def test_a_dead_member_is_a_note_and_no_member_a_problem(etcd: Etcd) -> None:
    found = await findings(etcd_registry(NOBODY, etcd.address), "")
    assert brief(found[:2]) == [(f"endpoint {NOBODY}", "note", "Connection refused"), answering(etcd)]
    found = await findings(etcd_registry(NOBODY, "127.0.0.1:2"))
    assert brief(found) == [
        (f"endpoint {NOBODY}", "problem", "Connection refused"),
        ("endpoint 127.0.0.1:2", "problem", "Connection refused"),
    ]


async def test_a_member_without_a_leader_is_a_problem(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        first, *others = cluster.members
        for member in others:
            await asyncio.to_thread(member.kill)
        while int(status(first).get("leader", 0)):
            await asyncio.to_thread(status, first)
        (found,) = await findings(etcd_registry(first.address))
    assert (found.check, found.level) == (f"endpoint {first.address}", "problem")
    assert "has no leader: it serves nobody" in found.text


def status(etcd: Etcd) -> Any:
    return etcd.ask("maintenance/status", {})


async def test_what_a_user_may_not_do_is_told(tmp_path: Path) -> None:
    with Etcd(tmp_path, arguments=["--bcrypt-cost=4"]) as etcd:
        etcd.add_user("reader", "secret", {f"{ROOT}greeter/": "READ"})

        def registry(password: str = "secret") -> EtcdRegistry:
            return etcd_registry(etcd.address, registry_user="reader", registry_password=password)

        found = await findings(registry(), "")
        assert found[1].text == "etcd has no users switched on: 'reader' is not asked for"
        etcd.enable_users("root")
        answer, keys, user, nodes = await findings(registry())
        assert answer.level == "ok"
        assert (keys.level, user.level, nodes.level) == ("note", "ok", "problem")
        assert "lacks the permission read on /micro/registry/*" in keys.text
        assert user.text == "authenticated as 'reader'"
        assert "there is no node of greeter" in nodes.text
        _, keys = await findings(registry(), "")
        assert keys.level == "problem"
        _, keys = await findings(registry("wrong"))
        assert "knows no user 'reader' with this password" in keys.text
        assert keys.level == "problem"
