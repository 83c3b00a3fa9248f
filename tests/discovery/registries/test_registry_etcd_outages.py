"""Registry `etcd` while etcd stops, hangs, restarts, or is cut off."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest

from pymicro.base.errors import RegistryError
from pymicro.discovery.directory import Directory
from pymicro.discovery.registries.etcd import EtcdRegistry, EtcdTiming
from pymicro.nodes.node import Node, NodeSet
from pymicro.testing.waiting import closed, first
from tests.chaos.proxy import Hole
from tests.discovery.registries.etcd_support import PATIENCE, QUICK, ROOT, etcd_registry, node, until
from tests.etcd_server import Cluster, Etcd

NOBODY = "127.0.0.1:1"


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members are asked as they are listed, and not the first one by chance."""
    monkeypatch.setattr("random.shuffle", lambda members: None)


class Following:
    """A directory's watch of the greeter, which must never lose the node `kept`."""

    def __init__(self, directory: Directory, kept: Node) -> None:
        self.directory = directory
        self.kept = kept
        self.sets = directory.watch("greeter")

    async def until(self, *nodes: Node) -> None:
        """Read until the set is exactly this."""
        wanted = NodeSet.of(nodes)
        async with asyncio.timeout(PATIENCE):
            async for found in self.sets:
                assert self.kept in found.nodes, f"{self.kept.id} was lost: {found}"
                if found == wanted:
                    return

    async def told(self) -> str:
        """Wait until the directory was told of a failure: which one."""
        await until(lambda: self.directory.state("greeter").error is not None)
        return self.directory.state("greeter").error or ""

    async def well(self) -> None:
        """Wait until a set came after a failure."""
        await until(lambda: self.directory.state("greeter").error is None)

    async def answered(self) -> None:
        """Wait until etcd has answered a question for progress: from then on it has to."""
        registry = self.directory.registry
        assert isinstance(registry, EtcdRegistry)
        await until(lambda: any(watch._answers for watch in registry._watches))


@asynccontextmanager
async def following(registry: EtcdRegistry) -> AsyncIterator[Following]:
    """Follow the greeter, of which node 1 is registered and seen."""
    async with registry, Directory(registry) as directory:
        await registry.register(node(1))
        found = Following(directory, node(1))
        await found.until(node(1))
        yield found
        await closed(found.sets)


async def test_a_restarted_etcd_is_used_again_and_nobody_is_told(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pymicro")
    timing = replace(QUICK, grace=PATIENCE, short=0.0)
    registry = etcd_registry(etcd.address, timing=timing)
    async with following(registry) as follower:
        await follower.answered()
        await asyncio.to_thread(etcd.stop)
        (watch,) = registry._watches
        await until(lambda: watch._gone is not None)
        await asyncio.to_thread(etcd.start)
        await follower.directory.registry.register(node(2))
        await follower.until(node(1), node(2))
    assert "reading all of it again" in caplog.text
    # grpc.aio's poller may log an error of its own, through asyncio, where others use its pipe.
    ours = [one for one in caplog.records if one.name.startswith("pymicro")]
    assert not [one for one in ours if one.levelno >= logging.WARNING]


async def test_a_stopped_etcd_is_told_and_used_again_when_it_is_back(etcd: Etcd) -> None:
    registry = etcd_registry(etcd.address)
    async with following(registry) as follower:
        await asyncio.to_thread(etcd.kill)
        error = await follower.told()
        assert error == (
            f"registry etcd: cannot read /micro/registry/greeter/*: {etcd.address}: Connection refused "
            "(is registry_address right, and does etcd run there? `pymicro doctor` says more)"
        )
        with pytest.raises(RegistryError, match=r"cannot renew a lease: .*Connection refused"):
            await registry.register(node(1))
        await asyncio.to_thread(etcd.start)
        await follower.well()
        await registry.register(node(1))
        await registry.register(node(2))
        await follower.until(node(1), node(2))


async def test_an_etcd_that_came_back_is_used_within_seconds_however_long_it_was_away(etcd: Etcd) -> None:
    # The directory's own pauses grow to 30 s: they must not be what is waited for.
    timing = replace(QUICK, patience=0.5)
    registry = etcd_registry(etcd.address, timing=timing)
    # A restart takes as long as it takes.
    patient = etcd_registry(etcd.address, timing=replace(QUICK, patience=PATIENCE))
    async with following(registry) as follower, patient:
        await asyncio.to_thread(etcd.kill)
        await follower.told()
        began = time.monotonic()
        with pytest.raises(RegistryError, match="Connection refused"):
            await first(registry.watch("greeter"), within=PATIENCE)
        assert time.monotonic() - began >= timing.patience, "it says at once what is known already"
        with pytest.raises(RegistryError, match="Connection refused"):
            await first(patient.watch("greeter"), within=PATIENCE)
        watch = patient.watch("greeter")
        waiting = asyncio.create_task(first(watch, within=PATIENCE))
        await asyncio.to_thread(etcd.start)
        assert await waiting == NodeSet.of([node(1)])
        await closed(watch)


@pytest.mark.once
async def test_an_etcd_that_hangs_is_noticed_and_used_again(etcd: Etcd) -> None:
    """SIGSTOP: its connections stay open, the kernel goes on acknowledging, and nothing answers.

    Told by the questions for progress alone, as where something in between answers pings.
    """
    registry = etcd_registry(etcd.address, timing=replace(QUICK, ping=1000.0, ping_timeout=1000.0))
    async with following(registry) as follower:
        await follower.answered()
        etcd.pause()
        try:
            began = time.monotonic()
            error = await follower.told()
            took = time.monotonic() - began
            with pytest.raises(RegistryError):
                await registry.register(node(1))
        finally:
            etcd.resume()
        assert "timed out" in error or "no answer" in error
        assert took < 8, f"noticed after {took:.1f} s"
        await follower.well()
        await registry.register(node(2))
        await follower.until(node(1), node(2))


@pytest.mark.once
async def test_pings_notice_a_watch_that_etcd_does_not_answer(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for an etcd before 3.4, which knows no questions for progress."""
    real = grpc.aio.insecure_channel
    # Pings of its own by which grpc-core measures the line, after something was received.
    none = ("grpc.http2.bdp_probe", 0)
    monkeypatch.setattr(grpc.aio, "insecure_channel", lambda to, options: real(to, [*options, none]))
    # Oftener than etcd permits, but it has no time to complain.
    timing = replace(QUICK, progress=1000.0, ping=1.0, ping_timeout=1.0)
    async with following(etcd_registry(etcd.address, timing=timing)) as follower:
        await follower.directory.registry.register(node(2))
        await follower.until(node(1), node(2))  # the watch works
        etcd.pause()
        try:
            began = time.monotonic()
            await follower.told()
            assert time.monotonic() - began < 12
        finally:
            etcd.resume()
        await follower.well()


async def test_a_call_on_a_connection_that_breaks_is_made_over_a_new_one(etcd: Etcd) -> None:
    async with Hole(etcd.address) as hole, etcd_registry(hole.address) as registry:
        await registry.register(node(1))
        hole.swallow()
        sent = len(hole.calls)
        again = asyncio.create_task(registry.register(node(2)))
        await until(lambda: len(hole.calls) > sent)
        hole.mend()
        await again
        assert len(etcd.entries()) == 2


@pytest.mark.once
async def test_a_black_hole_is_noticed_and_what_happened_meanwhile_heals(etcd: Etcd) -> None:
    async with Hole(etcd.address) as hole:
        registry = etcd_registry(hole.address)
        async with following(registry) as follower, etcd_registry(etcd.address) as other:
            await other.register(node(2))
            await follower.until(node(1), node(2))
            await follower.answered()
            hole.swallow()
            # The delete is lost to the watch, and then forgotten by etcd.
            await other.deregister(node(2))
            await other.register(node(3))
            await asyncio.to_thread(etcd.compact)
            await follower.told()
            hole.mend()
            await follower.until(node(1), node(3))


@pytest.mark.usefixtures("in_order")
async def test_a_dead_member_first_in_the_list_is_passed_over(etcd: Etcd) -> None:
    async with following(etcd_registry(NOBODY, etcd.address)) as follower:
        await follower.directory.registry.register(node(2))
        await follower.until(node(1), node(2))


@pytest.mark.usefixtures("in_order")
async def test_a_member_that_hangs_is_passed_over_in_the_time_a_stop_has(etcd: Etcd, tmp_path: Path) -> None:
    """Its connections are accepted by the kernel, so only time tells."""
    with Etcd(tmp_path) as hanging:
        hanging.pause()
        registry = etcd_registry(hanging.address, etcd.address, timing=EtcdTiming())
        began = time.monotonic()
        async with following(registry):
            pass
        assert time.monotonic() - began < 5  # advertise.DEREGISTER_TIMEOUT
        assert etcd.entries() == {}


async def test_when_no_member_answers_all_are_named() -> None:
    async with etcd_registry("localhost:1", NOBODY) as registry:
        for asking in (
            registry.services(),
            first(registry.watch("x"), within=PATIENCE),
            registry.register(node()),
        ):
            with pytest.raises(RegistryError) as caught:
                await asking
            assert "localhost:1: Connection refused; 127.0.0.1:1: Connection refused" in str(caught.value)
        await registry.deregister(node(2))  # never registered: nothing to do


async def test_a_node_that_cannot_be_taken_back_goes_with_its_lease_or_when_all_is_left(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    async with etcd_registry(etcd.address, register_ttl=40) as registry:
        await registry.register(node())
        await asyncio.to_thread(etcd.kill)
        with pytest.raises(
            RegistryError, match=r"cannot delete /micro/registry/greeter/greeter-1: .*40 s at most"
        ):
            await registry.deregister(node())
        await asyncio.to_thread(etcd.start)
        assert len(etcd.entries()) == 1
    assert etcd.entries() == {}
    async with etcd_registry(etcd.address) as registry:
        await registry.register(node())
        await asyncio.to_thread(etcd.kill)
    assert "what was registered could not all be taken back" in caplog.text
    await asyncio.to_thread(etcd.start)
    assert list(etcd.entries()) == [f"{ROOT}greeter/greeter-1"]


@pytest.mark.once
async def test_watches_and_registrations_go_on_when_a_member_of_three_dies(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        registries = [etcd_registry(*cluster.addresses) for _ in range(2)]
        async with following(registries[0]) as follower, registries[1] as writer:
            for number, member in enumerate(cluster.members, 2):
                # Whoever is asked just now, and the leader, is among them.
                await asyncio.to_thread(member.kill)
                await register_soon(writer, node(number))
                wanted = [node(one) for one in range(1, number + 1)]
                await follower.until(*wanted)
                await asyncio.to_thread(member.start)


@pytest.mark.once
async def test_when_all_members_in_the_settings_are_replaced_the_others_are_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pymicro")
    with Cluster(tmp_path) as cluster:
        first_one, *others = cluster.members
        timing = replace(QUICK, learn=0.3)
        registries = [etcd_registry(first_one.address, timing=timing) for _ in range(2)]
        async with following(registries[0]) as follower, registries[1] as writer:
            await register_soon(writer, node(2))
            await follower.until(node(1), node(2))
            async with asyncio.timeout(PATIENCE):
                # The watch asks with its first question for progress, the writer with a renewal.
                while caplog.text.count("members that are not in registry_address") < 2:
                    await writer.register(node(2))
                    await asyncio.sleep(0.05)
            assert all(other.address in caplog.text for other in others)
            await asyncio.to_thread(first_one.kill)
            await register_soon(writer, node(3))
            await follower.until(node(1), node(2), node(3))


async def register_soon(registry: EtcdRegistry, one: Node) -> None:
    """Register, again while a new leader is being elected."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await registry.register(one)
            except RegistryError as exc:
                if not any(word in str(exc) for word in ("leader", "refused", "no answer", "timed out")):
                    raise


@pytest.mark.once
@pytest.mark.usefixtures("in_order")
async def test_a_member_without_its_cluster_is_left(tmp_path: Path) -> None:
    """It is alone of three: it answers, and knows nothing any more."""
    with Cluster(tmp_path) as cluster:
        async with following(etcd_registry(*cluster.addresses[:1])) as follower:
            for member in cluster.members[1:]:
                await asyncio.to_thread(member.kill)
            error = await follower.told()
            assert "no leader" in error or "no answer" in error or "timed out" in error
            for member in cluster.members[1:]:
                member.begin()
            for member in cluster.members[1:]:
                await asyncio.to_thread(member.finish)
            await follower.well()
