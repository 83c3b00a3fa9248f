"""The faults of pods, each named after it: what the registry makes of them.

docs/faults.md says where each was seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pymicro.base.backoff import Backoff
from pymicro.base.errors import RegistryError
from pymicro.base.tasks import Tasks
from pymicro.discovery.directory import Directory
from pymicro.discovery.registry import Registry
from pymicro.nodes.node import Node, NodeSet
from pymicro.runtime.advertise import Advertisement
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.pods import pod
from tests.kubernetes.kube_contract import kubernetes

PATIENCE = 10.0

TYPE = "micro.mu/type"


def labels(*services: str) -> dict[str, str]:
    """What a pod template of these services carries."""
    return {TYPE: "service", **{f"micro.mu/selector-{service}": "service" for service in services}}


def record(address: str, *, service: str = "greeter", node: str = "greeter-1", **changes: Any) -> str:
    """go-micro's record of one node."""
    one = {"id": node, "address": address, "metadata": {"protocol": "grpc"}}
    return json.dumps(
        {"name": service, "version": "1", "metadata": None, "endpoints": [], "nodes": [one], **changes}
    )


def recorded(name: str, ip: str, text: str, **more: Any) -> dict[str, Any]:
    """A pod that registered itself."""
    return pod(name, ip, labels=labels("greeter"), annotations={"micro.mu/service-greeter": text}, **more)


def labelled(name: str, ip: str, *, service: str = "greeter", **more: Any) -> dict[str, Any]:
    """A pod that is found by its labels."""
    return pod(name, ip, labels=labels(service), **more)


@dataclass
class Sets:
    """What one watcher of a service was told.

    Attributes:
        told: Every set, in order.
        errors: Every error; the watcher comes back after each.
    """

    told: list[NodeSet] = field(default_factory=list)
    errors: list[RegistryError] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def addresses(self) -> set[str] | None:
        return {node.address for node in self.told[-1]} if self.told else None

    def add(self, nodes: NodeSet) -> None:
        self.told.append(nodes)
        self.tell()

    def tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition` holds; looked at after each set and error, and now and then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), 0.02)
        assert condition(), f"not within {PATIENCE} s: {what}; told: {self.addresses}, {self.errors[-1:]}"

    async def shows(self, *addresses: str) -> None:
        """Wait until the newest set has exactly these; without a port they have 8080."""
        wanted = {one if one[-1] != "]" and ":" in one else f"{one}:8080" for one in addresses}
        await self.until(lambda: self.addresses == wanted, f"nodes {wanted}")


@contextlib.asynccontextmanager
async def watching(registry: Registry, service: str = "greeter") -> AsyncIterator[Sets]:
    """A watcher of `service`, until the end of the block."""
    sets = Sets()

    async def watch() -> None:
        while True:
            try:
                async for nodes in registry.watch(service):
                    sets.add(nodes)
            except RegistryError as exc:
                sets.errors.append(exc)
                sets.tell()

    async with Tasks("watcher") as tasks:
        tasks.start(watch(), "watch")
        yield sets


@contextlib.asynccontextmanager
async def cluster(*pods: dict[str, Any]) -> AsyncIterator[tuple[FakeKubeApi, Sets]]:
    """These pods, and a watcher of the service greeter."""
    async with FakeKubeApi() as api:
        for one in pods:
            api.create(one)
        async with kubernetes(api.url) as registry, watching(registry) as sets:
            yield api, sets


# Pods come and go


@pytest.mark.parametrize("kind", ["labelled", "recorded"])
async def test_deletion_timestamp_arriving_as_modified(kind: str) -> None:
    one = (
        labelled("a", "10.0.0.1")
        if kind == "labelled"
        else recorded("a", "10.0.0.1", record("10.0.0.1:8080"))
    )
    async with cluster(one, labelled("b", "10.0.0.2")) as (api, seen):
        await seen.shows("10.0.0.1", "10.0.0.2")
        api.terminate("a")
        # It still runs, and is Ready, for as long as its grace lasts.
        await seen.shows("10.0.0.2")
        assert api.get("a")["status"]["conditions"][1] == {"type": "Ready", "status": "True"}
        api.delete("a")
        api.create(labelled("c", "10.0.0.3"))
        await seen.shows("10.0.0.2", "10.0.0.3")


@pytest.mark.parametrize("kind", ["labelled", "recorded"])
async def test_the_last_pods_count_while_they_are_deleted_and_serve(kind: str) -> None:
    def make(name: str, number: int) -> dict[str, Any]:
        ip = f"10.0.0.{number}"
        text = record(f"{ip}:8080", node=name)
        return labelled(name, ip) if kind == "labelled" else recorded(name, ip, text)

    async with cluster(make("a", 1), make("b", 2)) as (api, seen):
        await seen.shows("10.0.0.1", "10.0.0.2")
        api.terminate("a")
        await seen.shows("10.0.0.2")
        api.terminate("b")
        await seen.shows("10.0.0.1", "10.0.0.2")
        assert all(node.metadata["terminating"] == "true" for node in seen.told[-1])
        # One that no longer serves is no resort.
        unready = [{"type": "Ready", "status": "False"}]
        api.patch("a", {"status": {"conditions": unready}})
        await seen.shows("10.0.0.2")
        api.create(make("c", 3))
        await seen.shows("10.0.0.3")
        api.delete("b")
        api.terminate("c")
        await seen.until(lambda: any("terminating" in node.metadata for node in seen.told[-1]), "c leaves")
        await seen.shows("10.0.0.3")
        api.delete("c")
        await seen.shows()


async def test_a_node_of_another_protocol_is_no_reason_to_leave_the_last_resort() -> None:
    broker = record("10.0.0.2:80").replace("grpc", "http")
    async with cluster(labelled("a", "10.0.0.1"), recorded("b", "10.0.0.2", broker)) as (api, seen):
        await seen.shows("10.0.0.1", "10.0.0.2:80")
        api.terminate("a")
        await seen.until(lambda: any("terminating" in node.metadata for node in seen.told[-1]), "a leaves")
        await seen.shows("10.0.0.1", "10.0.0.2:80")


async def test_label_removed() -> None:
    async with cluster(labelled("a", "10.0.0.1"), labelled("b", "10.0.0.2")) as (api, seen):
        await seen.shows("10.0.0.1", "10.0.0.2")
        # The DELETED that this is still shows the label.
        api.patch("a", {"metadata": {"labels": {"micro.mu/selector-greeter": None}}})
        await seen.shows("10.0.0.2")


async def test_service_created_after_the_client() -> None:
    async with cluster() as (api, seen):
        await seen.shows()
        api.create(pod("a", "10.0.0.1"))
        # A label gained, which go-micro's reader ignores since it arrives as ADDED.
        api.patch("a", {"metadata": {"labels": labels("greeter")}})
        await seen.shows("10.0.0.1")


async def test_scale_to_0_and_back_to_1() -> None:
    async with cluster(labelled("a", "10.0.0.1")) as (api, seen):
        await seen.shows("10.0.0.1")
        api.delete("a")
        # None is an answer, not the absence of one.
        await seen.shows()
        api.create(labelled("b", "", ready=False, phase="Pending"))
        api.update(labelled("b", "10.0.0.2", ready=False))
        api.update(labelled("b", "10.0.0.2"))
        await seen.shows("10.0.0.2")
        assert seen.errors == []


async def test_pod_restarted_under_the_same_name_and_ip() -> None:
    async with cluster(labelled("a-0", "10.0.0.1")) as (api, seen):
        await seen.shows("10.0.0.1")
        (old,) = seen.told[-1]
        api.delete("a-0")
        api.create(labelled("a-0", "10.0.0.1"))
        # Another node: connections and figures of the old one are not its own.
        await seen.until(lambda: [node.key for node in seen.told[-1]] not in ([], [old.key]), "another node")
        (new,) = seen.told[-1]
        assert new.address == old.address
        assert new.key != old.key


async def test_a_container_that_crash_loops_is_not_listed() -> None:
    # Running is what go-micro's reader goes by.
    async with cluster(labelled("a", "10.0.0.1", ready=False), labelled("b", "10.0.0.2")) as (api, seen):
        await seen.shows("10.0.0.2")
        api.update(labelled("a", "10.0.0.1"))
        await seen.shows("10.0.0.1", "10.0.0.2")
        api.update(labelled("a", "10.0.0.1", ready=False))
        await seen.shows("10.0.0.2")


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
async def test_ip_reused_by_another_services_pod(phase: str) -> None:
    async with cluster(labelled("a", "10.0.0.1"), labelled("b", "10.0.0.2")) as (api, seen):
        await seen.shows("10.0.0.1", "10.0.0.2")
        # Evicted: the object stays, with its IP and, seen too, with Ready true.
        api.update(labelled("a", "10.0.0.1", phase=phase))
        api.create(labelled("other", "10.0.0.1", service="other"))
        await seen.shows("10.0.0.2")
        async with kubernetes(api.url) as registry, watching(registry, "other") as others:
            await others.shows("10.0.0.1")


async def test_rolling_update() -> None:
    old = [labelled(f"old-{number}", f"10.0.0.{number}") for number in range(10)]
    async with cluster(*old) as (api, seen):
        await seen.shows(*(f"10.0.0.{number}" for number in range(10)))
        start = len(seen.told)
        for number in range(10):
            name = f"new-{number}"
            api.create(labelled(name, "", ready=False, phase="Pending"))
            api.update(labelled(name, f"10.0.1.{number}", ready=False))
            api.update(labelled(name, f"10.0.1.{number}"))
            await seen.until(
                lambda address=f"10.0.1.{number}:8080": address in (seen.addresses or ()), f"{name} is listed"
            )
            api.terminate(f"old-{number}")
            await seen.until(
                lambda address=f"10.0.0.{number}:8080": address not in (seen.addresses or ()),
                f"old-{number} is not",
            )
            api.delete(f"old-{number}")
        await seen.shows(*(f"10.0.1.{number}" for number in range(10)))
        assert all(len(nodes) in (10, 11) for nodes in seen.told[start:])


async def test_ipv6() -> None:
    async with cluster(
        labelled("a", "fd00::1"),
        recorded("b", "fd00::2", record("[fd00:0:0::2]:9000", node="b")),
        # Both families: the main address is what is dialled, a record may name either.
        labelled("c", "10.0.0.3", ips=["10.0.0.3", "fd00::3"]),
        recorded("d", "10.0.0.4", record("[fd00::4]:9000", node="d"), ips=["10.0.0.4", "fd00::4"]),
        recorded("e", "fd00::5", record("[fd00::6]:9000", node="e")),
    ) as (_, seen):
        await seen.until(lambda: bool(seen.told), "a set")
        addresses = {node.address.replace("fd00:0:0::2", "fd00::2") for node in seen.told[-1]}
        assert addresses == {"[fd00::1]:8080", "[fd00::2]:9000", "10.0.0.3:8080", "[fd00::4]:9000"}


# What pods say of themselves

DEEP = '{"name":"greeter","nodes":[],"metadata":' + "[" * 100_000 + "]" * 100_000 + "}"

HOSTILE = {
    "no JSON": "{",
    "not an object": "[]",
    "null": "null",
    "a number": "1e999",
    "no nodes": record("10.0.0.1:8080", nodes=None),
    "a null node": record("10.0.0.1:8080", nodes=[None]),
    "nodes are text": record("10.0.0.1:8080", nodes="10.0.0.1:8080"),
    "a node is a list": record("10.0.0.1:8080", nodes=[[]]),
    "deep": DEEP,
    "huge": record("10.0.0.1:8080", padding="x" * (300 << 10)),
    "a long version": record("10.0.0.1:8080", version="x" * 9999),
    "another name": record("10.0.0.1:8080", service="billing"),
    "a name that is a number": record("10.0.0.1:8080", name=5),
    "no port": record("10.0.0.1"),
    "port 0": record("10.0.0.1:0"),
    "port 65536": record("10.0.0.1:65536"),
    "port true": record("", nodes=[{"id": "x", "address": "10.0.0.1", "port": True}]),
    "a path": record("10.0.0.1:8080/../x"),
    "a scheme": record("unix:///var/run/docker.sock"),
    "a scheme of grpc": record("dns:10.0.0.1:8080"),
    "two lines": record("10.0.0.1:8080\n10.0.0.1:9"),
    "credentials": record("me@10.0.0.1:8080"),
    "a list of addresses": record("10.0.0.1:8080,10.6.6.6:8080"),
    "half a character": record("10.0.0.1:8080", nodes=[{"id": "\ud800", "address": "10.0.0.1:8080"}]),
    "an id of many lines": record("10.0.0.1:8080", node="x\nERROR all is lost"),
    "metadata that is no text": record(
        "10.0.0.1:8080", nodes=[{"id": "x", "address": "10.0.0.1:8080", "metadata": {"a": {}}}]
    ),
    "a flood of metadata": record(
        "10.0.0.1:8080",
        nodes=[{"id": "x", "address": "10.0.0.1:8080", "metadata": {str(n): "" for n in range(9999)}}],
    ),
    "an HTTP subscriber elsewhere": record(
        "10.0.0.1:8080", nodes=[{"id": "x", "address": "10.6.6.6:8080", "metadata": {"topic": "t"}}]
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_malformed_huge_and_hostile_annotations(what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pymicro")
    async with cluster(recorded("bad", "10.0.0.1", HOSTILE[what]), labelled("good", "10.0.0.2")) as (
        api,
        seen,
    ):
        await seen.shows("10.0.0.2")
        # It comes as an event too, and the ones after it are seen.
        api.patch("bad", {"metadata": {"annotations": {"turn": "1"}}})
        api.create(labelled("later", "10.0.0.3"))
        await seen.shows("10.0.0.2", "10.0.0.3")
        assert seen.errors == []
        assert not any(entry.exc_info for entry in caplog.records), "expected, so no traceback"
        for line in (entry.getMessage() for entry in caplog.records):
            assert len(line) < 1000, "a log line as long as somebody likes"
            assert "\n" not in line, "a log line that looks like several"


async def test_a_bad_annotation_mended_is_a_node_again() -> None:
    async with cluster(recorded("a", "10.0.0.1", "{")) as (api, seen):
        await seen.shows()
        api.patch("a", {"metadata": {"annotations": {"micro.mu/service-greeter": record("10.0.0.1:9000")}}})
        await seen.shows("10.0.0.1:9000")


async def test_hostile_ports_and_metadata_of_labelled_pods() -> None:
    strange: list[Any] = [0, -1, 65536, "8080", None, True, 8080.5, [8080]]
    pods = []
    for number, port in enumerate(strange):
        one = labelled(f"strange-{number}", f"10.0.0.{number}")
        one["spec"]["containers"][0]["ports"][0]["containerPort"] = port
        pods.append(one)
    flood = labelled(
        "flood", "10.0.1.1", annotations={f"micro.mu/metadata-{n}": "x" * 500 for n in range(200)}
    )
    liar = labelled("liar", "10.0.1.2", annotations={"micro.mu/metadata-protocol": "http"})
    async with cluster(*pods, flood, liar) as (_, seen):
        await seen.shows("10.0.1.2")
        (node,) = seen.told[-1]
        assert node.metadata["protocol"] == "grpc"


@pytest.mark.parametrize(
    "address",
    ["10.6.6.6:8080", "127.0.0.1:8080", "169.254.169.254:80", "greeter.evil.example:8080", "[::1]:80"],
)
async def test_an_ip_that_is_not_the_pods_own(address: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pymicro")
    async with cluster(recorded("bad", "10.0.0.1", record(address)), labelled("good", "10.0.0.2")) as (
        _,
        seen,
    ):
        # Not even by its label: the record wins where both are there.
        await seen.shows("10.0.0.2")
        assert any("10.0.0.1" in entry.getMessage() for entry in caplog.records), (
            "said to whom it may concern"
        )


# The registry is away


@contextlib.asynccontextmanager
async def calling(api: FakeKubeApi) -> AsyncIterator[tuple[Directory, Sets]]:
    """A directory over the registry, as calls use it, and what it shows for greeter."""
    async with (
        kubernetes(api.url) as registry,
        Directory(registry, backoff=lambda: Backoff(0.02, 0.1)) as directory,
        Tasks("caller") as tasks,
    ):
        sets = Sets()

        async def watch() -> None:
            async for nodes in directory.watch("greeter"):
                sets.add(nodes)

        tasks.start(watch(), "watch")
        yield directory, sets


async def test_500s_for_an_hour_while_calls_go_on() -> None:
    async with FakeKubeApi() as api:
        api.create(labelled("a", "10.0.0.1"))
        async with calling(api) as (directory, seen):
            await seen.shows("10.0.0.1")
            storm = api.refuse(500)
            api.close_watches()
            # Long enough to be known as a failure all the way up; an hour is more of the same
            # (tests/kubernetes/api/test_faults_refusals.py).
            await api.until(lambda: storm.given >= 10, "ten refusals")
            state = directory.state("greeter")
            assert state.error is not None
            assert "`pymicro doctor greeter` says more" in state.error
            assert state.nodes is not None
            assert [node.address for node in state.nodes] == ["10.0.0.1:8080"]
            assert len(seen.told) == 1, "calls have seen nothing of it"
            storm.end()
            api.create(labelled("b", "10.0.0.2"))
            await seen.shows("10.0.0.1", "10.0.0.2")
            await seen.until(lambda: directory.state("greeter").error is None, "no error any more")


async def test_server_down_then_up_with_other_pods() -> None:
    async with FakeKubeApi() as api:
        api.create(labelled("a", "10.0.0.1"))
        async with calling(api) as (directory, seen):
            await seen.shows("10.0.0.1")
            await api.stop()
            api.delete("a")
            api.create(labelled("b", "10.0.0.2"))
            await seen.until(lambda: directory.state("greeter").error is not None, "an error")
            assert seen.addresses == {"10.0.0.1:8080"}
            await api.start()
            await seen.shows("10.0.0.2")
            assert len(seen.told) == 2, "from the old set to the new one, with nothing between"


# The own registration


def greeter(number: int = 1) -> Node:
    return Node(f"greeter-{number}", "10.0.0.1:8080", "greeter", "1", {"protocol": "grpc"})


def annotations(api: FakeKubeApi) -> dict[str, str]:
    found: dict[str, str] = api.get("own")["metadata"].get("annotations", {})
    return found


@pytest.mark.parametrize("answers", [False, True])
async def test_sigterm_before_registration_finished(answers: bool) -> None:
    async with FakeKubeApi() as api:
        api.create(pod("own", "10.0.0.1"))
        # Either the patch has not been done yet, or it has, and nobody knows.
        gate = api.hold(verb="patch", answers=answers)
        async with kubernetes(api.url, "own", ip="10.0.0.1", registry_advertise="patch") as registry:
            starting = asyncio.create_task(Advertisement(registry, greeter(), 30.0).__aenter__())
            await api.until(lambda: gate.waiting == 1, "the registration is on its way")
            starting.cancel()
            gate.open()
            with pytest.raises(asyncio.CancelledError):
                await starting
            assert annotations(api) == {}
            assert "micro.mu/selector-greeter" not in api.get("own")["metadata"].get("labels", {})
        assert annotations(api) == {}


async def test_a_crash_without_deregistering() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("own", "10.0.0.1"))
        async with kubernetes(api.url) as reader, watching(reader) as seen:
            first = kubernetes(api.url, "own", ip="10.0.0.1", registry_advertise="patch")
            async with first:
                await first.register(greeter(1))
                await seen.shows("10.0.0.1")
                # SIGKILL: nothing is taken back. The container starts anew in the same pod.
                left = annotations(api)
                api.update(recorded("own", "10.0.0.1", left["micro.mu/service-greeter"], ready=False))
                await seen.shows()
            api.apply(recorded("own", "10.0.0.1", left["micro.mu/service-greeter"], ready=False))
            async with kubernetes(api.url, "own", ip="10.0.0.1", registry_advertise="patch") as second:
                await second.register(greeter(2))
                text = annotations(api)["micro.mu/service-greeter"]
                assert [one["id"] for one in json.loads(text)["nodes"]] == ["greeter-2"]
                api.update(recorded("own", "10.0.0.1", text))
                await seen.shows("10.0.0.1")
                assert [node.id for node in seen.told[-1]] == ["greeter-2"]


async def test_a_crash_and_a_restart_as_another_service_leaves_nothing_stale() -> None:
    async with FakeKubeApi() as api:
        api.create(recorded("own", "10.0.0.1", record("10.0.0.1:8080")))
        async with kubernetes(api.url, "own", ip="10.0.0.1", registry_advertise="patch") as registry:
            await registry.register(Node("billing-1", "10.0.0.1:8080", "billing", "1", {"protocol": "grpc"}))
            assert set(annotations(api)) == {"micro.mu/service-billing"}
            assert "micro.mu/selector-greeter" not in api.get("own")["metadata"]["labels"]
