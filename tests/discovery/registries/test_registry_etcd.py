"""Registry `etcd`: go-micro's keys, values and leases, and what others may have written."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.discovery.registries.etcd import EtcdRegistry
from pymicro.discovery.registries.etcd.client import EtcdClient
from pymicro.discovery.registries.etcd.errors import EtcdError
from pymicro.discovery.registries.etcd.members import Members
from pymicro.discovery.registries.etcd.table import Unreadable
from pymicro.nodes.node import Endpoint, Node, NodeSet, Value
from pymicro.nodes.record import dump_record
from pymicro.testing.waiting import first
from tests.discovery.registries.etcd_support import (
    PATIENCE,
    QUICK,
    ROOT,
    etcd_registry,
    node,
    record,
    until,
    watching,
)
from tests.etcd_server import Etcd
from tests.heap import frozen_heap
from tests.machine import least_cpu


def make(etcd: Etcd, **settings: Any) -> EtcdRegistry:
    return etcd_registry(etcd.address, **settings)


# go-micro's form


async def test_a_node_lies_under_its_service_and_id_with_a_slash_as_a_dash(etcd: Etcd) -> None:
    async with make(etcd) as registry:
        await registry.register(node(service="shop/greeter", id="a/b"))
        assert list(etcd.entries()) == ["/micro/registry/shop-greeter/a-b"]


async def test_the_value_is_go_micros_record_with_one_node(etcd: Etcd) -> None:
    endpoint = Endpoint("Greeter.Hello", Value("Request", "Request", (Value("name", "string"),)))
    async with make(etcd) as registry:
        await registry.register(node(endpoints=(endpoint,)))
        await registry.register(node(2))
        values = [json.loads(value) for value, _ in etcd.entries().values()]
    assert values[0] == {
        "name": "greeter",
        "version": "1",
        "metadata": {},
        "endpoints": [
            {
                "name": "Greeter.Hello",
                "request": {
                    "name": "Request",
                    "type": "Request",
                    "values": [{"name": "name", "type": "string", "values": []}],
                },
                "response": None,
                "metadata": {},
            }
        ],
        "nodes": [{"id": "greeter-1", "address": "127.0.0.1:20001", "metadata": {"protocol": "grpc"}}],
    }
    assert [item["id"] for item in values[1]["nodes"]] == ["greeter-2"]


async def test_each_node_has_a_lease_of_register_ttl(etcd: Etcd) -> None:
    async with make(etcd, register_ttl=40) as registry:
        await registry.register(node(1))
        await registry.register(node(2))
        leases = [lease for _, lease in etcd.entries().values()]
        assert len(set(leases)) == 2
        for lease in leases:
            left = etcd.ask("lease/timetolive", {"ID": lease})
            assert left["grantedTTL"] == "40"


async def test_without_a_ttl_there_is_no_lease(etcd: Etcd) -> None:
    async with make(etcd, register_ttl=0) as registry:
        await registry.register(node())
        await registry.register(node())
        assert [lease for _, lease in etcd.entries().values()] == [0]
        await registry.deregister(node())
        assert etcd.entries() == {}


async def test_deregistering_deletes_the_key_before_the_lease_ends(etcd: Etcd) -> None:
    # A go-micro watcher reads what was there before, which an expiry need not carry.
    async with make(etcd) as registry, make(etcd) as other, watching(other) as watcher:
        await registry.register(node())
        await watcher.sees(node())
        ((_, lease),) = etcd.entries().values()
        assert lease in etcd.leases()
        await registry.deregister(node())
        await watcher.sees()
        assert lease not in etcd.leases()
        assert etcd.entries() == {}


@pytest.mark.parametrize("ttl", [40, 0])
async def test_deregistering_leaves_what_a_successor_of_the_same_id_has_written(etcd: Etcd, ttl: int) -> None:
    successor = dataclasses.replace(node(), address="127.0.0.1:20009")
    async with make(etcd, register_ttl=ttl) as old, make(etcd, register_ttl=ttl) as new:
        async with watching(new) as watcher:
            await old.register(node())
            await watcher.sees(node())
            await new.register(successor)
            await watcher.sees(successor)
            await old.deregister(node())
            assert len(etcd.entries()) == 1
            # Nor for a moment: what was seen last is still so.
            await new.register(node(2))
            await watcher.sees(successor, node(2))
        await new.deregister(successor)
        await new.deregister(node(2))
        assert etcd.entries() == {}


async def test_a_key_is_deleted_even_if_its_lease_cannot_be_ended(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def revoke(client: EtcdClient, lease: int) -> None:
        raise EtcdError("just now", kind="away")

    monkeypatch.setattr(EtcdClient, "revoke", revoke)
    async with make(etcd) as registry:
        await registry.register(node())
        await registry.deregister(node())
        assert etcd.entries() == {}


async def test_leaving_takes_back_keys_and_leases(etcd: Etcd) -> None:
    before = etcd.leases()
    async with make(etcd) as registry:
        await registry.register(node(1))
        await registry.register(node(2))
    assert etcd.entries() == {}
    assert etcd.leases() == before


def test_one_instance_serves_one_event_loop_after_the_other(etcd: Etcd) -> None:
    """As a module's own has to where each test has its loop; several enter it at a time."""
    registry = make(etcd)

    async def use() -> None:
        async with registry:
            await registry.services()

    async def several() -> None:
        await asyncio.gather(use(), use(), use())

    asyncio.run(several())
    asyncio.run(several())


async def test_who_asks_while_it_is_closed_is_told_and_not_cancelled(etcd: Etcd) -> None:
    try:
        async with make(etcd) as registry:
            await registry.services()
            etcd.pause()
            asking = asyncio.create_task(registry.services())
            given_up = asyncio.create_task(registry.services())
            await asyncio.sleep(0)  # they have begun
            given_up.cancel()
        with pytest.raises(RegistryError, match="closed meanwhile"):
            await asking
        with pytest.raises(asyncio.CancelledError):
            await given_up
    finally:
        etcd.resume()


@pytest.mark.parametrize(
    ("value", "address", "metadata"),
    [
        pytest.param(
            record([{"id": "n", "address": "10.0.0.1:80", "metadata": {"protocol": "grpc"}}]),
            "10.0.0.1:80",
            {"protocol": "grpc"},
            id="of 1.18",
        ),
        pytest.param(
            record([{"id": "n", "address": "10.0.0.1", "port": 80, "metadata": None}]),
            "10.0.0.1:80",
            {},
            id="before 1.8",
        ),
        pytest.param('{"nodes":[{"address":"10.0.0.1:80","id":"n"}],"name":"greeter"}', "10.0.0.1:80", {},
                     id="with almost nothing"),
        pytest.param(
            record([{"id": "n", "address": "[::1]:80", "metadata": {}}], metadata={}, endpoints=[], more=[1]),
            "[::1]:80",
            {},
            id="IPv6 and an unknown key",
        ),
        pytest.param(
            record(
                [{"id": "n", "address": "10.0.0.1:80", "metadata": {"broker": "http", "topic": "t"}}],
                endpoints=[{"name": "E", "request": None, "response": None, "metadata": None}],
            ),
            "10.0.0.1:80",
            {"broker": "http", "topic": "t"},
            id="of a broker",
        ),
    ],
)  # fmt: skip
async def test_what_go_micro_writes_is_read(
    etcd: Etcd, value: str, address: str, metadata: dict[str, str]
) -> None:
    etcd.put(f"{ROOT}greeter/n", value)
    async with make(etcd) as registry, watching(registry) as watcher:
        (found,) = await first(watcher.sets, within=PATIENCE, service="greeter")
    assert (found.id, found.address, dict(found.metadata)) == ("n", address, metadata)


async def test_a_record_without_nodes_is_none(etcd: Etcd) -> None:
    etcd.put(f"{ROOT}greeter/n", record(None))
    async with make(etcd) as registry, watching(registry) as watcher:
        await watcher.sees()
        assert await registry.services() == []


async def test_services_of_the_same_keys_are_told_apart_by_their_records(etcd: Etcd) -> None:
    async with make(etcd) as registry, watching(registry, "a/b") as one, watching(registry, "a-b") as two:
        await registry.register(node(1, "a/b", id="n1"))
        await registry.register(node(2, "a-b", id="n2"))
        assert list(etcd.entries()) == [f"{ROOT}a-b/n1", f"{ROOT}a-b/n2"]
        await one.sees(node(1, "a/b", id="n1"))
        await two.sees(node(2, "a-b", id="n2"))
        assert await registry.services() == ["a-b", "a/b"]
        # A key that changes hands leaves the one and joins the other.
        etcd.put(f"{ROOT}a-b/n1", record([{"id": "n1", "address": "10.0.0.1:80"}], "a-b"))
        await one.sees()
        await two.sees_addresses(["10.0.0.1:80", "127.0.0.1:20002"])


@pytest.mark.parametrize("name", ["", ".", ".."])
async def test_a_name_that_keys_cannot_carry_is_refused(etcd: Etcd, name: str) -> None:
    async with make(etcd) as registry:
        with pytest.raises(ConfigError, match="is no service that can be a part of etcd's keys"):
            await registry.register(node(service=name, id="n"))
        with pytest.raises(ConfigError, match="is no node id"):
            await registry.register(node(id=name))
        with pytest.raises(RegistryError, match="is no service"):
            await first(registry.watch(name), within=PATIENCE)
        assert etcd.entries() == {}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"id": "n\n"}, "is not printable"),
        ({"service": "s" * 600}, "'name' has 600 characters"),
        ({"metadata": {str(number): "x" for number in range(200)}}, "the metadata has 200 entries"),
        ({"address": "1.2.3.4 5:80"}, "cannot be dialled"),
    ],
)
async def test_what_others_would_pass_over_is_refused(etcd: Etcd, changes: dict[str, Any], why: str) -> None:
    async with make(etcd) as registry:
        with pytest.raises(ConfigError, match=why):
            await registry.register(node(**changes))
        assert etcd.entries() == {}


# What anybody may have written


GARBAGE: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "null": b"null",
    "a list": b"[]",
    "no name": b'{"nodes":[]}',
    "bytes": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "huge": b'{"name":"greeter","x":"' + b"x" * (300 << 10) + b'"}',
    "no port": record([{"id": "n", "address": "10.0.0.1"}]).encode(),
    "control": record([{"id": "n\n", "address": "10.0.0.1:80"}]).encode(),
}


async def test_garbage_hides_nobody_and_is_logged_once(etcd: Etcd, caplog: pytest.LogCaptureFixture) -> None:
    for name, value in GARBAGE.items():
        etcd.put(f"{ROOT}greeter/{name}", value)
    async with make(etcd) as registry:
        await registry.register(node())
        for _ in range(2):
            async with watching(registry) as watcher:
                await watcher.sees(node())
        assert await registry.services() == ["greeter"]
        assert f"unreadable={len(GARBAGE)}" in repr(registry)
        (line,) = [one.getMessage() for one in caplog.records if "skipping" in one.getMessage()]
        assert line.startswith(
            f"registry etcd: skipping {len(GARBAGE)} of greeter: '/micro/registry/greeter/"
        )
        assert line.endswith(f" and {len(GARBAGE) - 3} more")


async def test_garbage_that_comes_later_hides_nobody_and_goes_again(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    async with make(etcd) as registry, watching(registry) as watcher:
        await registry.register(node(1))
        await watcher.sees(node(1))
        etcd.put(f"{ROOT}greeter/bad", "{")
        await registry.register(node(2))
        await watcher.sees(node(1), node(2))
        assert "unreadable=1" in repr(registry)
        assert "skipping 1 of greeter: '/micro/registry/greeter/bad': " in caplog.text
        etcd.delete(f"{ROOT}greeter/bad")
        await registry.deregister(node(2))
        await watcher.sees(node(1))
        assert "unreadable=0" in repr(registry)


async def test_values_larger_than_a_message_are_read_in_smaller_pages(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymicro.discovery.registries.etcd.connection._LARGEST", 400 << 10)
    for number in range(20):
        etcd.put(f"{ROOT}greeter/{number:02}", b"x" * (300 << 10))
    # This one fits into none.
    etcd.put(f"{ROOT}greeter/05", b"x" * (500 << 10))
    async with make(etcd) as registry, watching(registry) as watcher:
        await registry.register(node(1))
        await watcher.sees(node(1))
        assert await registry.services() == ["greeter"]
        # Nor into a response of the watch, which then begins anew.
        etcd.put(f"{ROOT}greeter/06", b"x" * (500 << 10))
        await registry.register(node(2))
        await watcher.sees(node(1), node(2))


async def test_pages_grow_again_after_those_that_were_too_large(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymicro.discovery.registries.etcd.connection._LARGEST", 400 << 10)
    etcd.put(f"{ROOT}greeter/000", b"x" * (500 << 10))
    etcd.put_all({f"{ROOT}greeter/{number:03}": "{}" for number in range(1, 400)})
    asked: list[int] = []
    call = Members.call

    async def counted(self: Members, method: Any, request: Any, doing: Any) -> Any:
        asked.append(request.limit)
        return await call(self, method, request, doing)

    monkeypatch.setattr(Members, "call", counted)
    async with make(etcd) as registry:
        assert await registry.services() == []
    # Four that were too large, and then 1, 2, 4 … keys a page.
    assert len(asked) <= 15
    assert asked[-1] > 100


async def test_a_flood_of_unreadable_values_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    unreadable = Unreadable()
    for number in range(1000):
        unreadable.note("greeter", {f"/micro/registry/greeter/{number}": "x" * 10_000})
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 20
    assert max(map(len, lines)) < 1000
    assert "not named for a while" in lines[-1]


async def test_a_node_that_disappears_from_its_value_leaves(etcd: Etcd) -> None:
    async with make(etcd) as registry, watching(registry) as watcher:
        etcd.put(f"{ROOT}greeter/n", record([{"id": "n", "address": "10.0.0.1:80"}]))
        await watcher.sees_addresses(["10.0.0.1:80"])
        etcd.put(f"{ROOT}greeter/n", "garbage")
        await watcher.sees()


# Repair


async def test_a_key_that_somebody_deleted_is_put_again(etcd: Etcd, caplog: pytest.LogCaptureFixture) -> None:
    async with make(etcd) as registry, watching(registry) as watcher:
        await registry.register(node())
        await watcher.sees(node())
        etcd.delete(f"{ROOT}greeter/greeter-1")
        await watcher.sees()
        await registry.register(node())
        await watcher.sees(node())
    assert "somebody deleted /micro/registry/greeter/greeter-1" in caplog.text


async def test_a_value_that_somebody_overwrote_is_put_again(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    async with make(etcd) as registry, watching(registry) as watcher:
        await registry.register(node())
        ((value, lease),) = etcd.entries().values()
        etcd.put(f"{ROOT}greeter/greeter-1", "mine")
        await watcher.sees()
        await registry.register(node())
        await watcher.sees(node())
        # The same value without our lease would stay for ever.
        etcd.put(f"{ROOT}greeter/greeter-1", value)
        await registry.register(node())
        assert list(etcd.entries().values()) == [(value, lease)]
    assert caplog.text.count("somebody overwrote /micro/registry/greeter/greeter-1") == 2


async def test_a_lease_that_was_lost_is_replaced_with_its_key(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    async with make(etcd) as registry, watching(registry) as watcher:
        await registry.register(node())
        await watcher.sees(node())
        ((_, lost),) = etcd.entries().values()
        etcd.revoke(lost)
        await watcher.sees()
        await registry.register(node())
        await watcher.sees(node())
        ((_, lease),) = etcd.entries().values()
        assert lease not in (0, lost)
    assert "the lease of greeter-1 is lost" in caplog.text


async def test_an_unchanged_registration_writes_nothing(etcd: Etcd) -> None:
    async with make(etcd) as registry:
        await registry.register(node())
        revision = etcd.revision()
        for _ in range(3):
            await registry.register(node())
        assert etcd.revision() == revision


# Leases between two registrations

# Seconds. A keeper renews it each third of that, and is late by two thirds at most: on a busy machine a
# process may not run for more than a second, which the least lease of etcd (2 s) would not outlive.
SHORT = 5


async def test_a_lease_that_would_run_out_between_two_registrations_is_renewed(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    """It outlives one of the same length that nobody renews."""
    async with (
        make(etcd, register_ttl=SHORT, register_interval=60) as registry,
        make(etcd, register_ttl=SHORT, register_interval=0) as without,
        make(etcd) as reader,
        watching(reader) as watcher,
    ):
        await registry.register(node(1))
        await without.register(node(2))
        assert f"register_ttl ({SHORT} s) is not greater than register_interval (60 s)" in caplog.text
        kept = etcd.entries()
        lease = int(etcd.ask("lease/grant", {"TTL": SHORT})["ID"])
        etcd.put(f"{ROOT}greeter/n3", record([{"id": "n3", "address": "10.0.0.1:3"}]), lease)
        await watcher.sees_addresses([node(1).address, node(2).address, "10.0.0.1:3"])
        await watcher.sees(node(1), node(2))
        assert etcd.entries() == kept


async def lost_and_repaired(etcd: Etcd) -> None:
    """End the only lease, and wait until the key is there with another one.

    A watch need not show that it was away: it gathers what changes.
    """
    ((_, lease),) = etcd.entries().values()
    etcd.revoke(lease)
    await until(lambda: any(found != lease for _, found in etcd.entries().values()))


async def test_the_keeper_of_a_short_lease_repairs_it(etcd: Etcd) -> None:
    async with make(etcd, register_ttl=SHORT, register_interval=0) as registry, watching(registry) as watcher:
        await registry.register(node())
        await watcher.sees(node())
        await lost_and_repaired(etcd)
        await watcher.sees(node())
        await registry.deregister(node())
        await watcher.sees()
        assert etcd.entries() == {}


async def test_the_keeper_of_a_short_lease_tries_again_what_failed(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failed = EtcdClient.put, []

    async def put(client: EtcdClient, key: str, value: bytes, lease: int) -> None:
        if not failed:
            failed.append(key)
            raise EtcdError("just now", kind="away")
        await real(client, key, value, lease)

    async with make(etcd, register_ttl=SHORT, register_interval=0) as registry, watching(registry) as watcher:
        await registry.register(node())
        await watcher.sees(node())
        monkeypatch.setattr(EtcdClient, "put", put)
        await lost_and_repaired(etcd)
        await watcher.sees(node())
        assert failed


async def test_a_node_that_is_taken_back_while_it_is_registered_does_not_come_back(etcd: Etcd) -> None:
    async with make(etcd, register_ttl=SHORT, register_interval=0) as registry:
        before = asyncio.all_tasks()
        registering = asyncio.create_task(registry.register(node()))
        await asyncio.sleep(0)  # it has begun
        await asyncio.gather(registering, registry.deregister(node()))
        assert etcd.entries() == {}
        assert {task for task in asyncio.all_tasks() - before if "lease" in task.get_name()} == set()


async def test_a_lease_of_two_intervals_is_left_to_the_registrations(etcd: Etcd) -> None:
    async with make(etcd, register_ttl=60, register_interval=30) as registry:
        before = asyncio.all_tasks()
        await registry.register(node())
        assert {task for task in asyncio.all_tasks() - before if "lease" in task.get_name()} == set()


# Watching


async def test_a_set_is_confirmed_now_and_then(etcd: Etcd) -> None:
    async with make(etcd) as registry, watching(registry) as watcher:
        await registry.register(node())
        await watcher.sees(node())
        for _ in range(2):
            again = await first(watcher.sets, within=PATIENCE, service="greeter")
            assert again == NodeSet.of([node()])


async def test_a_compacted_revision_is_read_again_and_watched_on(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pymicro")
    # So that there is a revision between the first and the newest: it is what is forgotten.
    etcd.put("/elsewhere", "")
    etcd.delete("/elsewhere")
    etcd.compact()
    real, asked = EtcdClient.watch_request, []

    def request(prefix: str, revision: int) -> Any:
        asked.append(revision)
        return real(prefix, revision if len(asked) > 1 else 1)

    monkeypatch.setattr(EtcdClient, "watch_request", staticmethod(request))
    async with make(etcd) as registry, watching(registry) as watcher:
        await watcher.sees()
        await registry.register(node())
        await watcher.sees(node())
        await registry.deregister(node())
        await watcher.sees()
    assert len(asked) == 2
    assert "begins anew: etcd has compacted" in caplog.text


async def test_what_was_read_of_an_etcd_that_lost_its_data_is_read_again(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Between reading and watching it is replaced by an empty one, whose revisions are lower."""
    caplog.set_level(logging.INFO, "pymicro")
    real, read = EtcdClient.pages, []

    async def pages(client: EtcdClient, prefix: str, verb: str = "read") -> AsyncIterator[Any]:
        async with contextlib.aclosing(real(client, prefix, verb)) as found:
            async for page in found:
                read.append(page)
                if len(read) == 1:
                    page.header.revision += 1000
                    page.kvs.add(key=f"{ROOT}greeter/n".encode(), value=dump_record([node()]).encode())
                yield page

    monkeypatch.setattr(EtcdClient, "pages", pages)
    async with make(etcd) as registry, watching(registry) as watcher:
        await watcher.sees(node())
        await watcher.sees()
        await registry.register(node(2))
        await watcher.sees(node(2))
    assert "etcd is not the one that was read" in caplog.text


async def test_a_response_in_fragments_is_one_change(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing read before the watch, all comes in one response of four megabytes."""
    nodes = [node(number) for number in range(40)]
    filler = "x" * (100 << 10)
    begin = etcd.revision() + 1
    for one in nodes:
        value = record([{"id": one.id, "address": one.address}], endpoints=None, filler=filler)
        etcd.put(f"{ROOT}greeter/{one.id}", value)
    real = EtcdClient.watch_request
    monkeypatch.setattr(
        EtcdClient, "watch_request", staticmethod(lambda prefix, revision: real(prefix, begin))
    )

    async def nothing(client: EtcdClient, prefix: str, verb: str = "") -> AsyncIterator[Any]:
        for page in ():
            yield page

    monkeypatch.setattr(EtcdClient, "pages", nothing)
    async with make(etcd) as registry, watching(registry) as watcher:
        sizes = []
        async with asyncio.timeout(PATIENCE):
            async for nodeset in watcher.sets:
                sizes.append(len(nodeset))
                if len(nodeset) == len(nodes):
                    break
    assert sizes == [0, len(nodes)]


# Of the CPU, so that other programs do not count: 50 ms are the bar for a blocked loop.
LONGEST_BLOCK = 0.05
# What blocks the loop blocks it each time. Other programs slow the CPU down as well, by its
# caches and its other thread, but not each time: the least of so many counts.
TIMES = 5


class Blocked:
    """How long the event loop was busy with one thing, in seconds of the CPU."""

    longest = 0.0

    async def run(self, every: float = 0.002) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(every)
            self.longest = max(self.longest, time.thread_time() - before)


@contextlib.asynccontextmanager
async def watched_loop() -> AsyncIterator[Blocked]:
    blocked = Blocked()
    # What all tests before have left in this process is not looked through meanwhile.
    with frozen_heap():
        task = asyncio.create_task(blocked.run())
        try:
            yield blocked
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_two_thousand_nodes_are_listed_and_watched_without_blocking_the_loop(etcd: Etcd) -> None:
    schema = Value("Request", "Request", tuple(Value(f"field{n}", "string") for n in range(10)))
    endpoints = tuple(Endpoint(f"Greeter.Method{n}", schema, schema) for n in range(4))
    many = 2000

    def one(number: int) -> Node:
        return node(
            number,
            address=f"10.0.{number // 250}.{number % 250}:80",
            endpoints=endpoints,
            metadata={"a": "b"},
        )

    async with make(etcd) as registry:
        client, _, _ = registry._opened()
        for begin in range(0, many, 100):
            nodes = [one(number) for number in range(begin, begin + 100)]
            await asyncio.gather(
                *(
                    client.put(f"{ROOT}greeter/{found.id}", dump_record([found]).encode(), 0)
                    for found in nodes
                )
            )
        left = deque(range(many))

        async def longest() -> float:
            async with watched_loop() as blocked, watching(registry) as watcher:
                found = await first(watcher.sets, within=PATIENCE, service="greeter")
                assert len(found) == len(left)
                etcd.delete(f"{ROOT}greeter/greeter-{left.popleft()}")
                await watcher.sees(*map(one, left))
                assert await registry.services() == ["greeter"]
            return blocked.longest

        assert await least_cpu(longest, LONGEST_BLOCK) <= LONGEST_BLOCK


async def test_huge_values_do_not_block_the_loop(etcd: Etcd) -> None:
    value = record([], more=[[number] for number in range(30_000)])
    assert 200_000 < len(value) < 256 << 10
    for number in range(30):
        etcd.put(f"{ROOT}greeter/{number}", value)
    async with make(etcd) as registry:
        await registry.register(node())
        # Each of them takes 10 to 20 ms, and json.loads cannot be interrupted.
        limit = 3 * LONGEST_BLOCK

        async def longest() -> float:
            async with watched_loop() as blocked, watching(registry) as watcher:
                await watcher.sees(node())
            return blocked.longest

        assert await least_cpu(longest, limit) <= limit


async def test_a_burst_of_changes_is_gathered(etcd: Etcd) -> None:
    nodes = [node(number) for number in range(200)]
    async with make(etcd) as writer, make(etcd, timing=QUICK) as registry, watching(registry) as watcher:
        await watcher.sees()
        began = time.monotonic()
        await asyncio.gather(*map(writer.register, nodes))
        count = await watcher.sees(*nodes)
        assert count <= (time.monotonic() - began) / QUICK.gather + 2
