"""Each step of a watch fails once, with an error that nobody thought of; nothing ends it.

For each registry: a process watches two services. Then one step fails, whichever it is: the
n-th, for every n. The watch goes on, its neighbour never notices, and leaving is clean.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from pymicro.base.backoff import Backoff
from pymicro.base.tasks import Tasks
from pymicro.discovery.directory import Directory
from pymicro.discovery.registries.local import LocalRegistry
from pymicro.discovery.registry import Registry
from pymicro.kubernetes.cluster.neighbours import SharingRules
from pymicro.kubernetes.pods import KubernetesRegistry
from pymicro.nodes.node import Node
from pymicro.settings.config import load
from tests.discovery.registries import etcd_support, mdns_support
from tests.etcd_server import Etcd
from tests.fakes.kube_api import FakeKubeApi, StreamingList
from tests.fakes.pods import pod
from tests.kubernetes.api.reflecting import QUICK
from tests.stumbling import Odd, Stumble, stumbling

PATIENCE = 5.0
ONE, OTHER = "alpha", "beta"


def node(service: str, number: int) -> Node:
    return Node(f"{service}-{number}", f"127.0.0.1:{20000 + number}", service, metadata={"protocol": "grpc"})


class Place(Protocol):
    """A registry to watch, and somebody else who registers nodes."""

    registry: Registry

    async def add(self, service: str, number: int) -> None: ...

    async def disturb(self) -> None:
        """Do what happens to watches now and then."""


class Following:
    """The newest addresses of one service, for one who watches as a client does."""

    def __init__(self, directory: Directory, service: str, stumble: Stumble) -> None:
        self.stumble = stumble
        self.directory = directory
        self.service = service
        self.numbers: set[int] = set()
        self.errors: list[str] = []
        self._news = asyncio.Event()

    async def run(self) -> None:
        while True:
            # The reader's own steps fail too; a client reads again then.
            with contextlib.suppress(Odd):
                async with aclosing(self.directory.watch(self.service)) as sets:
                    async for nodes in sets:
                        self.numbers = {int(one.address.rpartition(":")[2]) - 20000 for one in nodes}
                        if error := self.directory.state(self.service).error:
                            self.errors.append(error)
                        self._news.set()

    async def sees(self, *numbers: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self.numbers != set(numbers):
                    self._news.clear()
                    await self._news.wait()
        assert self.numbers == set(numbers), (
            f"{self.service} is stuck after {self.stumble.at} failed in {self.stumble.task}: "
            f"{self.directory.describe_state(self.service)}"
        )


async def scene(place: Place, number: int, *folders: str) -> str | None:
    """One run; returns where the step of this number failed."""
    with stumbling(number, *folders) as stumble:
        async with (
            Directory(place.registry, backoff=lambda: Backoff(0.001, 0.02)) as directory,
            Tasks("readers") as tasks,
        ):
            await place.add(ONE, 1)
            await place.add(OTHER, 1)
            other = Following(directory, OTHER, stumble)
            tasks.start(other.run(), "of the other")
            await other.sees(1)
            one = Following(directory, ONE, stumble)
            stumble.arm()
            tasks.start(one.run(), "of the one")
            await one.sees(1)
            await place.add(ONE, 2)
            await one.sees(1, 2)
            await place.disturb()
            await place.add(OTHER, 2)
            await other.sees(1, 2)
            await place.add(ONE, 3)
            await one.sees(1, 2, 3)
            await place.add(OTHER, 3)
            await other.sees(1, 2, 3)
            stumble.disarm()
            if ONE in stumble.task:
                # It happened in the one's watch, so the other has heard nothing of it.
                assert directory.state(OTHER).error is None
                assert not any("Odd" in error for error in other.errors)
        return stumble.at


# What every watch goes through.
SHARED = ("pymicro/base/", "pymicro/discovery/directory")


async def through(
    make: Callable[[], contextlib.AbstractAsyncContextManager[Place]], least: int, *folders: str
) -> None:
    """Every run there is."""
    failed: list[str] = []
    while True:
        async with make() as place:
            at = await scene(place, len(failed), *folders, *SHARED)
        if at is None:
            break
        failed.append(at)
    assert len(set(failed)) >= least, sorted(set(failed))


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Some hundred tracebacks help nobody."""
    caplog.set_level(logging.CRITICAL, logger="pymicro")


# What is left of an await that failed before it began.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]


async def test_registry_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymicro.discovery.registries.local.POLL_INTERVAL", 0.005)
    number = 0

    @asynccontextmanager
    async def make() -> AsyncIterator[Place]:
        nonlocal number
        number += 1
        folder = tmp_path / str(number)
        config = load({"registry_address": [str(folder)]}, environ={})

        class Local:
            registry = LocalRegistry(config)
            owner = LocalRegistry(config)

            async def add(self, service: str, number: int) -> None:
                await self.owner.register(node(service, number))

            async def disturb(self) -> None:
                pass

        async with Local.registry, Local.owner:
            yield Local()

    await through(make, 5, "pymicro/discovery/registries/local/")


# Both services in one watch from the first on; or the other has a watch of its own until the one comes.
AT_ONCE = SharingRules(handful=0, few=0, settle=0.0, quiet=0.005, again=0.01, again_limit=0.01)
CHANGING = dataclasses.replace(AT_ONCE, handful=1, few=1)


@pytest.mark.once  # each costs seconds, and is the same on every Python
@pytest.mark.parametrize(
    ("lists", "sharing"),
    [
        pytest.param("yes", None, id="own, streaming list"),
        pytest.param("refused", None, id="own, pages"),
        pytest.param("yes", AT_ONCE, id="shared, streaming list"),
        pytest.param("refused", CHANGING, id="changing over, pages"),
    ],
)
async def test_registry_kubernetes(lists: StreamingList, sharing: SharingRules | None) -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[Place]:
        async with FakeKubeApi(streaming_list=lists) as api:
            config = load({"registry_address": [api.url], "registry_namespace": ["default"]}, environ={})

            class Kubernetes:
                registry = KubernetesRegistry(config, environ={}, timing=QUICK, sharing=sharing)

                async def add(self, service: str, number: int) -> None:
                    labels = {"micro.mu/type": "service", f"micro.mu/selector-{service}": "service"}
                    ports = {"grpc": 20000 + number}
                    api.create(pod(f"{service}-{number}", f"10.0.0.{number}", labels=labels, ports=ports))

                async def disturb(self) -> None:
                    api.cut_watches()

            async with Kubernetes.registry:
                yield Kubernetes()

    await through(make, 20, "pymicro/kubernetes/")


@pytest.mark.once
async def test_registry_etcd(etcd: Etcd) -> None:
    timing = dataclasses.replace(
        etcd_support.QUICK,
        gather=0.005,
        short=0.01,
        backoff_initial=0.01,
        progress=0.05,
        progress_timeout=0.5,
    )

    @asynccontextmanager
    async def make() -> AsyncIterator[Place]:
        etcd.delete_all("/")

        class InEtcd:
            registry = etcd_support.etcd_registry(etcd.address, timing=timing)
            owner = etcd_support.etcd_registry(etcd.address)

            async def add(self, service: str, number: int) -> None:
                await self.owner.register(node(service, number))

            async def disturb(self) -> None:
                pass

        async with InEtcd.registry, InEtcd.owner:
            yield InEtcd()

    await through(make, 10, "pymicro/discovery/registries/etcd/")


@pytest.mark.once
async def test_registry_mdns() -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[Place]:
        port = mdns_support.free_port()

        class Mdns:
            registry = mdns_support.make(port)
            owner = mdns_support.make(port)

            async def add(self, service: str, number: int) -> None:
                await self.owner.register(node(service, number))

            async def disturb(self) -> None:
                pass

        async with Mdns.registry, Mdns.owner:
            yield Mdns()

    await through(make, 10, "pymicro/discovery/registries/mdns/")
