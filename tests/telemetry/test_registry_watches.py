"""What `/nodes` and `/metrics` say of the watches of each registry that has some."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pymicro import Client, MemoryRegistry
from pymicro.discovery.registries.local import LocalRegistry
from pymicro.nodes.node import Node
from pymicro.settings.config import load
from tests.discovery.registries.etcd_support import etcd_registry
from tests.discovery.registries.mdns_support import free_port, make
from tests.discovery.registries.test_registry_mdns import deaf
from tests.etcd_server import Etcd
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.pods import pod
from tests.kubernetes.kube_contract import kubernetes
from tests.telemetry.http import get

LABELS = {"micro.mu/type": "service", "micro.mu/selector-greeter": "service"}
FIELDS = {
    "what",
    "watched_seconds",
    "connected_seconds",
    "heard_seconds",
    "lists",
    "cuts",
    "recent_cuts",
    "resumes",
    "error",
}


class Shown:
    """What a client shows of its registry."""

    def __init__(self, client: Client) -> None:
        assert client.admin_address is not None
        self.port = int(client.admin_address.rpartition(":")[2])

    async def registry(self) -> dict[str, Any]:
        found: dict[str, Any] = (await get(self.port, "/nodes")).json["registry"]
        return found

    async def watch(self) -> dict[str, Any]:
        """The only watch."""
        found: dict[str, Any]
        (found,) = (await self.registry())["watches"]
        assert set(found) == FIELDS
        return found

    async def until(self, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The only watch, once it is so."""
        async with asyncio.timeout(20):
            while True:
                found = await self.watch()
                if condition(found):
                    return found
                await asyncio.sleep(0.01)

    async def relists(self, registry: str) -> int | None:
        text = (await get(self.port, "/metrics")).text
        found = re.search(rf'^pymicro_registry_relists_total{{registry="{registry}"}} (\S+)$', text, re.M)
        return int(float(found[1])) if found else None


@asynccontextmanager
async def watching(registry: Any) -> AsyncIterator[Shown]:
    """A client that watches the greeter."""
    async with Client(registry=registry, admin_address="127.0.0.1:0", environ={}) as client:
        await client.nodes("greeter", timeout=20)
        yield Shown(client)


async def test_a_watch_of_pods_that_is_cut_is_told_of_and_goes_on_where_it_was() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("one", "10.0.0.1", labels=LABELS))
        async with watching(kubernetes(api.url)) as shown:
            before = await shown.until(lambda watch: watch["connected_seconds"] is not None)
            assert before["what"] == "pods in namespace default with micro.mu/selector-greeter=service"
            assert (before["lists"], before["cuts"], before["resumes"]) == (1, {}, True)
            assert await shown.relists("kubernetes") == 0
            api.create(pod("two", "10.0.0.2", labels=LABELS))
            await shown.until(lambda watch: watch["heard_seconds"] < watch["connected_seconds"])
            api.cut_watches()
            await api.asked("watch", 2)
            after = await shown.until(lambda watch: watch["connected_seconds"] is not None and watch["cuts"])
            assert sum(after["cuts"].values()) == 1
            assert after["recent_cuts"][0]["why"] in after["cuts"]
            assert (after["lists"], after["resumes"], after["error"]) == (1, True, None)
            assert await shown.relists("kubernetes") == 0


async def test_a_watch_of_pods_that_is_ended_politely_before_its_time_counts_as_cut() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("one", "10.0.0.1", labels=LABELS))
        async with watching(kubernetes(api.url)) as shown:
            await shown.until(lambda watch: watch["connected_seconds"] is not None)
            api.create(pod("two", "10.0.0.2", labels=LABELS))
            await shown.until(lambda watch: watch["heard_seconds"] < watch["connected_seconds"])
            api.close_watches()
            found = await shown.until(lambda watch: watch["cuts"])
            assert found["cuts"] == {"early": 1}


async def test_an_expired_version_is_a_list_anew_and_the_metric_counts_it() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("one", "10.0.0.1", labels=LABELS))
        async with watching(kubernetes(api.url)) as shown:
            await shown.until(lambda watch: watch["connected_seconds"] is not None)
            api.event_410()
            found = await shown.until(
                lambda watch: watch["lists"] == 2 and watch["connected_seconds"] is not None
            )
            assert found["cuts"] == {"expired": 1}
            assert await shown.relists("kubernetes") == 1


async def test_an_api_server_that_is_away_is_told_with_its_error() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("one", "10.0.0.1", labels=LABELS))
        async with watching(kubernetes(api.url)) as shown:
            await api.stop()
            found = await shown.until(lambda watch: watch["error"] and "Cannot connect" in watch["error"])
            assert found["connected_seconds"] is None
            assert found["lists"] == 1
            await api.start()
            found = await shown.until(lambda watch: watch["connected_seconds"] is not None)
            assert found["error"] is None


@pytest.fixture
def etcd(tmp_path: Path) -> Any:
    with Etcd(tmp_path) as server:
        yield server


async def test_a_watch_of_keys_is_read_anew_when_etcd_comes_back(etcd: Etcd) -> None:
    async with watching(etcd_registry(etcd.address)) as shown:
        found = await shown.until(lambda watch: watch["connected_seconds"] is not None)
        assert found["what"] == "keys under /micro/registry/greeter/"
        assert (found["lists"], found["resumes"]) == (1, None)
        await asyncio.to_thread(etcd.kill)
        found = await shown.until(lambda watch: watch["cuts"])
        assert found["cuts"] == {"away": 1}
        await asyncio.to_thread(etcd.start)
        found = await shown.until(lambda watch: watch["connected_seconds"] is not None)
        assert (found["lists"], found["error"]) == (2, None)
        assert await shown.relists("etcd") == 1


async def test_questions_to_the_link_say_when_an_answer_came() -> None:
    port = free_port()
    async with make(port) as other, watching(make(port)) as shown:
        await other.register(Node("greeter-1", "127.0.0.1:9", "greeter"))
        found = await shown.until(lambda watch: watch["connected_seconds"] is not None)
        assert (found["what"], found["lists"]) == ("answers about greeter", 1)
        assert found["heard_seconds"] < 20
        assert await shown.relists("mdns") == 0


async def test_a_link_that_goes_deaf_is_a_cut_and_all_is_asked_again() -> None:
    registry = make(free_port())
    async with watching(registry) as shown:
        await shown.until(lambda watch: watch["connected_seconds"] is not None)
        deaf(registry)
        found = await shown.until(lambda watch: watch["cuts"] and watch["connected_seconds"] is not None)
        assert set(found["cuts"]) == {"multicast"}
        assert found["lists"] == sum(found["cuts"].values()) + 1
        assert await shown.relists("mdns") == found["lists"] - 1


async def test_a_folder_that_cannot_be_read_is_a_cut_and_is_read_anew(registry_folder: str) -> None:
    registry = LocalRegistry(load({"registry_address": registry_folder}, environ={}))
    async with watching(registry) as shown:
        found = await shown.until(lambda watch: watch["connected_seconds"] is not None)
        assert (found["what"], found["lists"]) == (f"folder {registry_folder}", 1)
        os.chmod(registry_folder, 0o755)
        found = await shown.until(lambda watch: watch["error"])
        assert "is open to other users" in found["error"]
        os.chmod(registry_folder, 0o700)
        found = await shown.until(lambda watch: watch["connected_seconds"] is not None)
        assert (found["cuts"], found["lists"]) == ({"unreadable": 1}, 2)
        assert await shown.relists("local") == 1


async def test_a_registry_without_watches_says_that_there_are_none() -> None:
    async with watching(MemoryRegistry()) as shown:
        found = await shown.registry()
        assert (found["watches"], found["relists"]) == ([], None)
        assert await shown.relists("memory") is None
