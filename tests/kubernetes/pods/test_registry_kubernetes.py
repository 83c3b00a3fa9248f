"""Registry `kubernetes` as a reader: watches shared, namespaces merged, errors told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pymicro.base.errors import RegistryError
from pymicro.kubernetes.cluster import registry as kubenodes_registry
from pymicro.kubernetes.pods import KubernetesRegistry
from pymicro.nodes.node import NodeSet
from pymicro.settings.config import load
from pymicro.testing.waiting import first
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.pods import pod
from tests.kubernetes.kube_contract import QUICK, kubernetes

PATIENCE = 10.0


def labelled(name: str, ip: str, service: str = "greeter", **more: Any) -> dict[str, Any]:
    labels = {"micro.mu/type": "service", f"micro.mu/selector-{service}": "service"}
    return pod(name, ip, labels=labels, **more)


async def expect(sets: AsyncIterator[NodeSet], *addresses: str) -> NodeSet:
    """Read until the set has exactly these addresses, at port 8080."""
    last: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE):
            async for nodes in sets:
                last = [node.address for node in nodes]
                if sorted(last) == sorted(f"{address}:8080" for address in addresses):
                    return nodes
    except TimeoutError:
        pass
    raise AssertionError(f"wanted {addresses}, last seen {last}")


async def failure(sets: AsyncIterator[NodeSet]) -> str:
    """Read until the watch fails; what it says."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(RegistryError) as caught:
            async for _ in sets:
                pass
    return str(caught.value)


# Sharing


async def test_watchers_of_one_service_share_one_watch_and_one_set() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        api.create(labelled("one", "10.0.0.1"))
        a, b = registry.watch("greeter"), registry.watch("greeter")
        seen = await asyncio.gather(expect(a, "10.0.0.1"), expect(b, "10.0.0.1"))
        assert seen[0] is seen[1]
        api.create(labelled("two", "10.0.0.2"))
        seen = await asyncio.gather(expect(a, "10.0.0.1", "10.0.0.2"), expect(b, "10.0.0.1", "10.0.0.2"))
        assert seen[0] is seen[1]
        assert api.count("watch") == 1
        await a.aclose()
        await b.aclose()
        await api.until(lambda: not api.watches, "the watch ends with its last watcher")


async def test_what_is_asked_is_the_service_in_the_own_namespace() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url, namespace="shop") as registry:
        api.create(labelled("one", "10.0.0.1", namespace="shop"))
        api.create(labelled("two", "10.0.0.2", namespace="other"))
        api.create(labelled("three", "10.0.0.3", "front", namespace="shop"))
        sets = registry.watch("greeter")
        await expect(sets, "10.0.0.1")
        assert {one.namespace for one in api.requests if one.plural} == {"shop"}
        assert {one.query["labelSelector"] for one in api.requests if one.plural} == {
            "micro.mu/selector-greeter=service"
        }
        assert registry.describe() == f"registry kubernetes (namespace shop of {api.url})"
        await sets.aclose()


# Namespaces


async def test_several_namespaces_are_one_set() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url, registry_namespace="a,b") as registry:
        api.create(labelled("one", "10.0.0.1", namespace="a"))
        api.create(labelled("one", "10.0.0.2", namespace="b"))
        api.create(labelled("one", "10.0.0.3", namespace="c"))
        sets = registry.watch("greeter")
        assert len(await first(sets, within=PATIENCE)) == 2
        api.delete("one", "a")
        await expect(sets, "10.0.0.2")
        assert "namespaces a, b of" in registry.describe()
        await sets.aclose()


async def test_a_star_is_all_namespaces_in_one_watch() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url, registry_namespace="*") as registry:
        api.create(labelled("one", "10.0.0.1", namespace="a"))
        api.create(labelled("one", "10.0.0.2", namespace="b"))
        sets = registry.watch("greeter")
        await expect(sets, "10.0.0.1", "10.0.0.2")
        assert [one.path for one in api.requests] == ["/api/v1/pods"]
        await sets.aclose()


async def test_there_is_no_set_before_every_namespace_has_answered() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url, registry_namespace="a,b") as registry:
        api.create(labelled("one", "10.0.0.1", namespace="a"))
        api.create(labelled("one", "10.0.0.2", namespace="b"))
        gate = api.hold(path="/namespaces/b/")
        sets = registry.watch("greeter")
        reader: asyncio.Task[NodeSet] = asyncio.create_task(anext(sets))  # type: ignore[arg-type]
        await api.watched()
        await api.until(lambda: gate.waiting > 0, "namespace b is asked")
        assert not reader.done()
        gate.open()
        assert len(await asyncio.wait_for(reader, PATIENCE)) == 2
        await sets.aclose()


async def test_a_namespace_that_fails_keeps_its_nodes_while_the_others_go_on() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url, registry_namespace="a,b") as registry:
        api.create(labelled("one", "10.0.0.1", namespace="a"))
        api.create(labelled("two", "10.0.0.2", namespace="b"))
        sets = registry.watch("greeter")
        await expect(sets, "10.0.0.1", "10.0.0.2")
        refusal = api.refuse(500, path="/namespaces/b/")
        api.cut_watches()
        assert "namespace b" in await failure(sets)
        # Told once: from now on the others go on, and nothing is emptied.
        again = registry.watch("greeter")
        await expect(again, "10.0.0.1", "10.0.0.2")
        asked = refusal.given
        await api.until(lambda: refusal.given > asked + 1, "namespace b is tried again", PATIENCE)
        api.create(labelled("new", "10.0.0.3", namespace="a"))
        await expect(again, "10.0.0.1", "10.0.0.2", "10.0.0.3")
        api.delete("two", "b")
        refusal.end()
        await expect(again, "10.0.0.1", "10.0.0.3")
        await again.aclose()


async def test_a_namespace_that_never_answered_is_told_each_time() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url, registry_namespace="a,b") as registry:
        api.create(labelled("one", "10.0.0.1", namespace="a"))
        api.forbid("list", namespace="b")
        api.forbid("watch", namespace="b")
        for _ in range(3):
            assert "namespace b" in await failure(registry.watch("greeter"))


# Failures


async def test_a_server_that_fails_is_told_and_later_watchers_wait_for_news() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        api.create(labelled("one", "10.0.0.1"))
        sets = registry.watch("greeter")
        await expect(sets, "10.0.0.1")
        refusal = api.refuse(503)
        api.cut_watches()
        text = await failure(sets)
        assert api.url in text
        assert text.endswith(": `pymicro doctor greeter` says more")
        # Old nodes are not handed out as if they were fresh: the next try fails first.
        assert api.url in await failure(registry.watch("greeter"))
        watching = len(registry._watches.running)
        api.create(labelled("two", "10.0.0.2"))
        last = registry.watch("greeter")
        refusal.end()
        try:
            seen = await asyncio.wait_for(anext(last), PATIENCE)
        except RegistryError:  # one more try may have failed
            last = registry.watch("greeter")
            seen = await asyncio.wait_for(anext(last), PATIENCE)
        assert len(seen) == 2
        assert watching == 1, "a watch that fails is kept for who comes back"
        assert api.count("list") + api.count("watch") < 100
        # It works again: who comes now does not wait for news.
        assert await first(registry.watch("greeter"), within=PATIENCE) == seen
        await last.aclose()


async def test_a_failing_watch_nobody_comes_back_to_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubenodes_registry, "LINGER", 0.05)
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        api.refuse(503)
        before = asyncio.all_tasks()
        await failure(registry.watch("greeter"))
        kept = {task for task in asyncio.all_tasks() - before if task.get_name().startswith("pymicro")}
        assert kept, "the watch is kept for a while"
        _, late = await asyncio.wait(kept, timeout=PATIENCE)
        assert not late


async def test_a_missing_right_is_told_with_the_rule() -> None:
    async with FakeKubeApi() as api, kubernetes(api.url, namespace="shop") as registry:
        api.forbid("watch")
        api.forbid("list")
        text = await failure(registry.watch("greeter"))
        assert 'resources: ["pods"]' in text
        assert "namespace shop" in text
        assert text.splitlines()[-1] == "`pymicro doctor greeter` says more"
        with pytest.raises(RegistryError, match="`pymicro doctor` says more"):
            await registry.services()


async def test_no_cluster_to_be_found_is_told_and_looked_for_again(tmp_path: Any) -> None:
    config = load({"registry_address": [f"kubeconfig={tmp_path}/config"]}, environ={})
    async with FakeKubeApi() as api, KubernetesRegistry(config, environ={}, timing=QUICK) as registry:
        api.create(labelled("one", "10.0.0.1"))
        text = await failure(registry.watch("greeter"))
        assert str(tmp_path) in text
        assert "pymicro doctor greeter" in text
        with pytest.raises(RegistryError, match="doctor"):
            await registry.services()
        (tmp_path / "config").write_text(
            f"""
            apiVersion: v1
            kind: Config
            current-context: test
            contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
            clusters: [{{name: test, cluster: {{server: "{api.url}"}}}}]
            users: [{{name: test, user: {{}}}}]
            """
        )
        sets = registry.watch("greeter")
        await expect(sets, "10.0.0.1")
        await sets.aclose()


async def test_watchers_that_fail_together_all_come_back_to_a_watch_that_lives(tmp_path: Any) -> None:
    config = load({"registry_address": [f"kubeconfig={tmp_path}/none"]}, environ={})
    async with KubernetesRegistry(config, environ={}, timing=QUICK) as registry:

        async def twice() -> None:
            for _ in range(2):
                await failure(registry.watch("greeter"))

        await asyncio.gather(twice(), twice())


@pytest.mark.parametrize("name", ["greeter_", "x" * 55, "服务", ""])
async def test_a_name_no_pod_can_carry_is_told_without_asking(name: str) -> None:
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        assert "label" in await failure(registry.watch(name)) or not name
        assert api.requests == []


async def test_a_watch_ends_with_the_registry() -> None:
    async with FakeKubeApi() as api:
        registry = kubernetes(api.url)
        async with registry:
            sets = registry.watch("greeter")
            await first(sets, within=PATIENCE)
        assert "closed" in await failure(sets)
        with pytest.raises(RuntimeError, match="outside"):
            await anext(registry.watch("greeter"))


# Services


async def test_services_are_those_with_a_pod_that_counts() -> None:
    record = '{"name":"a b","version":"1","nodes":[{"id":"x","address":"10.0.0.4:1"}]}'
    async with FakeKubeApi() as api, kubernetes(api.url, registry_namespace="a,b") as registry:
        api.create(labelled("one", "10.0.0.1", namespace="a"))
        api.create(labelled("two", "10.0.0.2", "front", namespace="b"))
        api.create(labelled("three", "10.0.0.3", "unready", namespace="b", ready=False))
        other = labelled("four", "10.0.0.4", "a_b", namespace="b")
        other["metadata"]["annotations"] = {"micro.mu/service-a_b": record}
        api.create(other)
        api.create(labelled("five", "10.0.0.5", "elsewhere", namespace="c"))
        bad = labelled("six", "10.0.0.6", "bad", namespace="a")
        bad["metadata"]["annotations"] = {"micro.mu/service-bad": "{"}
        api.create(bad)
        assert await registry.services() == ["a b", "front", "greeter"]


async def test_services_are_listed_in_pages_and_a_page_that_expired_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kubenodes_registry, "_PAGE", 2)
    async with FakeKubeApi() as api, kubernetes(api.url) as registry:
        for number in range(5):
            api.create(labelled(f"pod-{number}", f"10.0.0.{number}", f"s{number}"))
        wanted = [f"s{number}" for number in range(5)]
        assert await registry.services() == wanted
        assert api.count("list") == 3
        refusal = api.refuse(410, times=1, reason="Expired", plural="pods")
        assert await registry.services() == wanted
        assert refusal.given == 1
        api.refuse(410, reason="Expired", plural="pods")
        with pytest.raises(RegistryError):
            await registry.services()
