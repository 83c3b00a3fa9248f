"""The reflector against a real API server that forgets, goes away, and no longer takes our token."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.reflector import ObjectQuery, Reflector
from pymicro.kubernetes.api.resource import PODS
from pymicro.kubernetes.api.timing import ReflectorTiming
from tests.cluster import pods
from tests.cluster.plane import ControlPlane, until
from tests.cluster.relay import Relay
from tests.fakes.pods import pod

pytestmark = pytest.mark.cluster

# Everything as it is by default, but for the longest pause: a test's outage is short.
QUICK = ReflectorTiming(backoff_maximum=2.0)


def ready(found: Mapping[str, Any]) -> str | None:
    """The pod's name while it is ready."""
    conditions = found.get("status", {}).get("conditions", ())
    is_ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return str(found["metadata"]["name"]) if is_ready else None


class Follower:
    """Follows a reflector, as the registries do: an error is noted, and it follows again."""

    def __init__(self, reflector: Reflector[str]) -> None:
        self.reflector = reflector
        self.names: set[str] | None = None
        self.seen = 0
        self.errors: list[KubeError] = []

    async def run(self) -> None:
        while True:
            try:
                async for found in self.reflector.follow():
                    self.names = set(found.values())
                    self.seen += 1
            except KubeError as exc:
                self.errors.append(exc)

    async def see(self, *names: str) -> None:
        await until(f"it sees {names}", lambda: self.names == set(names), 30.0)


@contextlib.asynccontextmanager
async def following(
    client: KubeClient, namespace: str, timing: ReflectorTiming = QUICK
) -> AsyncIterator[Follower]:
    reflector = Reflector(client, ObjectQuery(PODS, namespace), ready, timing=timing)
    follower = Follower(reflector)
    tasks = [asyncio.create_task(reflector.run()), asyncio.create_task(follower.run())]
    try:
        yield follower
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended


@contextlib.asynccontextmanager
async def pod_client(plane: ControlPlane, folder: Path, port: int = 0) -> AsyncIterator[KubeClient]:
    """A client as in a pod; through `port` if it is given."""
    environ = plane.pod_environment()
    if port:
        environ["KUBERNETES_SERVICE_PORT"] = str(port)
    cluster = await find_cluster((), environ, str(folder))
    async with KubeClient(cluster) as client:
        yield client


@pytest.fixture
def account(plane: ControlPlane, namespace: str, tmp_path: Path) -> Path:
    """The folder of a service account that may list and watch the namespace's pods."""
    plane.allow(namespace, "default", verbs="list,watch", resource="pods")
    return plane.service_account_folder(tmp_path / "account", namespace, "default")


def make(plane: ControlPlane, namespace: str, name: str) -> dict[str, Any]:
    return pods.create(plane.api, pod(name, namespace=namespace))


async def test_a_copy_is_kept_in_step(plane: ControlPlane, namespace: str, account: Path) -> None:
    one = make(plane, namespace, "one")
    async with pod_client(plane, account) as client, following(client, namespace) as follower:
        await follower.see("one")
        two = make(plane, namespace, "two")
        await follower.see("one", "two")
        pods.set_ready(plane.api, one, False)
        await follower.see("two")
        pods.set_ready(plane.api, one, True)
        await follower.see("one", "two")
        pods.delete(plane.api, two)
        await follower.see("one")
        make(plane, namespace, "two")
        await follower.see("one", "two")
        assert follower.errors == []
        state = follower.reflector.state
        assert (state.lists, state.restarts, state.streaming_list) == (1, 0, True)


async def test_what_happened_while_a_watch_was_down_is_seen_from_where_it_stopped(
    plane: ControlPlane, namespace: str, account: Path
) -> None:
    one = make(plane, namespace, "one")
    async with (
        Relay(plane.host, plane.port) as relay,
        pod_client(plane, account, relay.port) as client,
        following(client, namespace) as follower,
    ):
        await follower.see("one")
        await relay.cut()
        pods.delete(plane.api, one)
        make(plane, namespace, "two")
        await until("the follower is told", lambda: bool(follower.errors), 10.0)
        assert follower.names == {"one"}
        await relay.mend()
        await follower.see("two")
        # Nothing was forgotten, so nothing had to be listed.
        assert follower.reflector.state.lists == 1


async def test_after_a_compaction_everything_is_listed_again_and_a_missed_delete_heals(
    plane: ControlPlane, namespace: str, account: Path
) -> None:
    one, _ = make(plane, namespace, "one"), make(plane, namespace, "two")
    async with (
        Relay(plane.host, plane.port) as relay,
        pod_client(plane, account, relay.port) as client,
        following(client, namespace) as follower,
    ):
        await follower.see("one", "two")
        await relay.cut()
        pods.delete(plane.api, one)
        make(plane, namespace, "three")
        await until("the follower is told", lambda: bool(follower.errors), 10.0)
        # Its version, and the deletion after it, are forgotten while nobody watches.
        await asyncio.to_thread(plane.compact)
        await asyncio.to_thread(plane.restart_apiserver)
        assert follower.names == {"one", "two"}
        await relay.mend()
        await follower.see("two", "three")
        state = follower.reflector.state
        assert state.errors["expired"] >= 1
        assert state.lists == 2


async def test_a_token_that_is_no_longer_taken_keeps_the_copy_and_a_new_one_heals_it(
    plane: ControlPlane, namespace: str, account: Path
) -> None:
    bound = make(plane, namespace, "self")
    (account / "token").write_text(plane.token_for(namespace, "default", pod=bound))
    make(plane, namespace, "one")
    async with pod_client(plane, account) as client, following(client, namespace) as follower:
        await follower.see("one", "self")
        pods.delete(plane.api, bound)
        await follower.see("one")
        # A watch that runs is not asked again who it is; a server that starts knows no token.
        await asyncio.to_thread(plane.restart_apiserver)
        make(plane, namespace, "two")
        await until("it is refused", lambda: any(exc.status == 401 for exc in follower.errors), 20.0)
        assert follower.names == {"one"}
        assert follower.reflector.state.errors["unauthorized"] >= 1
        (account / "token").write_text(plane.token_for(namespace, "default"))
        await follower.see("one", "two")
        assert follower.reflector.state.failure is None


@pytest.fixture(scope="module")
def uncached() -> Iterator[ControlPlane]:
    """An API server without its watch cache: it forgets what etcd forgets, at once."""
    with ControlPlane(api_flags=["--watch-cache=false"], controllers=()) as plane:
        yield plane


async def test_without_a_watch_cache_a_compaction_alone_forgets(
    uncached: ControlPlane, tmp_path: Path
) -> None:
    namespace = uncached.namespace()
    uncached.allow(namespace, "default", verbs="list,watch", resource="pods")
    folder = uncached.service_account_folder(tmp_path / "account", namespace, "default")
    names = [f"pod-{number}" for number in range(7)]
    made = [make(uncached, namespace, name) for name in names]
    timing = ReflectorTiming(page_size=3, backoff_maximum=2.0)
    async with (
        Relay(uncached.host, uncached.port) as relay,
        pod_client(uncached, folder, relay.port) as client,
        following(client, namespace, timing) as follower,
    ):
        await follower.see(*names)
        await relay.cut()
        pods.delete(uncached.api, made[0])
        await until("the follower is told", lambda: bool(follower.errors), 10.0)
        await asyncio.to_thread(uncached.compact)
        await relay.mend()
        await follower.see(*names[1:])
        assert follower.reflector.state.errors["expired"] >= 1
        pods.delete(uncached.api, made[1])
        await follower.see(*names[2:])
