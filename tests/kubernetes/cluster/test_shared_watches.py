"""Many services of a namespace share one watch: few connections, and nothing is lost on the way there."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterable
from typing import Any

import pytest

from pymicro.kubernetes.cluster.neighbours import SharingRules
from pymicro.kubernetes.pods import KubernetesRegistry
from pymicro.kubernetes.slices import EndpointSliceRegistry
from pymicro.settings.config import load
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.pods import pod
from tests.fakes.slices import endpoint, slice
from tests.kubernetes.api.reflecting import QUICK
from tests.kubernetes.cluster.histories import Histories

RULES = SharingRules(settle=0.01, quiet=0.1, again=0.2)
# What only a shared watch of pods asks for.
SHARED = "status.phase"
MANY = [f"service-{number:02}" for number in range(30)]


def registry(api: FakeKubeApi, *, namespaces: Iterable[str] = (), **rules: Any) -> KubernetesRegistry:
    config = load({"registry_address": [api.url], "registry_namespace": list(namespaces)}, environ={})
    sharing = dataclasses.replace(RULES, **rules)
    return KubernetesRegistry(config, environ={}, timing=QUICK, sharing=sharing)


class Shop:
    """Pods of services on the fake, each with an address that no other ever had."""

    def __init__(self, api: FakeKubeApi) -> None:
        self.api = api
        self.made = 0

    def add(self, *services: str, namespace: str = "default", name: str = "", **more: Any) -> str:
        """A pod of these services, with nothing but the label that makes it count; returns its address."""
        self.made += 1
        host = f"10.{self.made >> 16}.{self.made >> 8 & 255}.{self.made & 255}"
        labels = {f"micro.mu/selector-{service}": "service" for service in services}
        self.api.create(pod(name or f"pod-{self.made}", host, namespace=namespace, labels=labels, **more))
        return host


def own(api: FakeKubeApi) -> list[str]:
    """The labels of the open watches of a single service."""
    return sorted(one.query["labelSelector"] for one in api.watches if one.query.get("labelSelector"))


def shared(api: FakeKubeApi) -> int:
    """How many open watches are those of a whole namespace."""
    return sum(SHARED in one.query.get("fieldSelector", "") for one in api.watches)


async def until_shared(api: FakeKubeApi, count: int = 1) -> None:
    await api.until(lambda: shared(api) == len(api.watches) == count, f"{count} shared watches and no other")


async def test_thirty_services_in_two_namespaces_are_two_connections_at_rest() -> None:
    async with FakeKubeApi() as api:
        shop = Shop(api)
        hosts = {
            service: {shop.add(service, namespace=where, name=f"{service}-{where}") for where in "ab"}
            for service in MANY
        }
        most = 0

        def count(_: object) -> None:
            nonlocal most
            most = max(most, len(api.watches))

        api.on_request(count)
        async with Histories.of(registry(api, namespaces="ab"), *MANY) as seen:
            for service in MANY:
                await seen.see(service, *hosts[service])
            await until_shared(api, 2)
            # In between: a handful each, and the shared one.
            assert most <= 2 * (RULES.handful + 1)
            # What comes and goes now is seen by whom it concerns, and by nobody else.
            before = {service: len(seen.shown[service]) for service in MANY}
            more = shop.add(MANY[7], namespace="b")
            await seen.see(MANY[7], *hosts[MANY[7]], more)
            assert {one for one in MANY if len(seen.shown[one]) != before[one]} == {MANY[7]}
            seen.check(*(host for group in hosts.values() for host in group))
            assert seen.errors() == []


async def test_pods_that_change_during_the_change_over_are_all_seen_and_none_comes_back() -> None:
    async with FakeKubeApi() as api:
        shop = Shop(api)
        few, late = MANY[:5], MANY[5]
        stay = {service: shop.add(service) for service in MANY[:6]}
        async with Histories.of(registry(api), *few) as seen:
            for service in few:
                await seen.see(service, stay[service])
            assert shared(api) == 0
            gate = api.hold(verb="watch", selector=SHARED)
            seen.follow(late)
            await api.until(lambda: gate.waiting > 0, "the shared watch is asked for")
            # While it is on its way, their own watches go on.
            first = {service: shop.add(service, name=f"{service}-first") for service in few}
            for service in few:
                await seen.see(service, stay[service], first[service])
            for service in few:
                api.delete(f"{service}-first")
            gate.open()
            # And while it takes over.
            second = {service: shop.add(service) for service in few}
            for service in few:
                await seen.see(service, stay[service], second[service])
            await seen.see(late, stay[late])
            await until_shared(api)
            third = shop.add(late)
            await seen.see(late, stay[late], third)
            seen.check(*stay.values())
            assert seen.errors() == []


async def test_a_change_over_among_constant_changes_loses_nothing() -> None:
    async with FakeKubeApi() as api:
        shop = Shop(api)
        stay = {service: shop.add(service) for service in MANY[:12]}
        async with Histories.of(registry(api, quiet=0.03), *MANY[:4]) as seen:
            present: dict[str, set[str]] = {service: {host} for service, host in stay.items()}
            for number in range(120):
                service = MANY[number % 12]
                if number % 8 == 0 and number // 8 + 4 < 12:
                    seen.follow(MANY[number // 8 + 4])
                present[service].add(shop.add(service, name=f"churn-{number}"))
                if number >= 40:
                    old = number - 40
                    api.delete(f"churn-{old}")
                    gone = f"10.0.0.{12 + old + 1}"
                    present[MANY[old % 12]].remove(gone)
                await asyncio.sleep(0)
            for service in MANY[:12]:
                await seen.see(service, *present[service])
            await until_shared(api)
            for service in MANY[:12]:
                assert seen.last(service) == present[service]
            seen.check(*stay.values())
            assert seen.errors() == []


async def test_a_newcomer_has_its_own_watch_until_the_shared_one_is_made_anew() -> None:
    async with FakeKubeApi() as api:
        shop = Shop(api)
        stay = {service: shop.add(service) for service in MANY[:7]}
        async with Histories.of(registry(api, quiet=0.5), *MANY[:6]) as seen:
            await until_shared(api)
            seen.follow(MANY[6])
            await seen.see(MANY[6], stay[MANY[6]])
            assert own(api) == [f"micro.mu/selector-{MANY[6]}=service"]
            await until_shared(api)
            seen.check(*stay.values())


async def test_when_few_are_left_each_has_its_own_watch_again() -> None:
    async with FakeKubeApi() as api:
        shop = Shop(api)
        stay = {service: shop.add(service) for service in MANY[:6]}
        async with Histories.of(registry(api), *MANY[:2]) as seen:
            others = [seen.follow(service) for service in MANY[2:6]]
            await until_shared(api)
            for other in others:
                other.cancel()
            await api.until(lambda: len(own(api)) == len(api.watches) == 2, "a watch of its own for each")
            more = shop.add(MANY[0])
            await seen.see(MANY[0], stay[MANY[0]], more)
            seen.check(*stay.values())


async def test_a_handful_of_services_have_a_watch_each() -> None:
    async with FakeKubeApi() as api:
        shop = Shop(api)
        stay = {service: shop.add(service) for service in MANY[:5]}
        async with Histories.of(registry(api), *MANY[:5]) as seen:
            for service, host in stay.items():
                await seen.see(service, host)
            await asyncio.wait([asyncio.ensure_future(api.watched(count=5))])
            assert len(own(api)) == len(api.watches) == 5
            assert api.count("list") == 0


# What one service does to the others


async def test_an_odd_object_is_odd_for_its_service_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeKubeApi() as api:
        shop = Shop(api)
        stay = {service: shop.add(service) for service in MANY[:6]}
        async with Histories.of(registry(api), *MANY[:6]) as seen:
            await until_shared(api)
            # A pod of two services, whose record of one of them is nonsense.
            bad = {f"micro.mu/service-{MANY[0]}": "{" * 1000}
            both = shop.add(MANY[0], MANY[1], annotations=bad)
            await seen.see(MANY[1], stay[MANY[1]], both)
            for number in range(300):
                shop.add(MANY[0], name=f"bad-{number}", annotations=bad)
            await api.until(lambda: "not named for a while" in caplog.text, "the complaints end")
            # Complaints about the one leave those about another their room.
            shop.add(MANY[2], name="other", annotations={f"micro.mu/service-{MANY[2]}": "{"})
            more = shop.add(MANY[3])
            await seen.see(MANY[3], stay[MANY[3]], more)
            assert f"({MANY[2]}): default/other is skipped" in caplog.text
            assert seen.last(MANY[0]) == {stay[MANY[0]]}
            seen.check(*stay.values())
            assert seen.errors() == []


async def test_a_reader_with_a_bug_hides_nothing_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from pymicro.kubernetes.pods.reader import PodReader

    read = PodReader.read

    def stumbling(self: PodReader, found: Any) -> Any:
        if self.service == MANY[0]:
            raise RecursionError("nobody thought of it")
        return read(self, found)

    monkeypatch.setattr(PodReader, "read", stumbling)
    async with FakeKubeApi() as api:
        shop = Shop(api)
        everybody = shop.add(*MANY[:6])
        async with Histories.of(registry(api), *MANY[:6]) as seen:
            for service in MANY[1:6]:
                await seen.see(service, everybody)
            await until_shared(api)
            more = shop.add(*MANY[:6])
            for service in MANY[1:6]:
                await seen.see(service, everybody, more)


async def test_a_service_that_is_written_over_and_over_delays_nobody() -> None:
    async with FakeKubeApi() as api:
        shop = Shop(api)
        stay = {service: shop.add(service) for service in MANY[:6]}
        loud = shop.add(MANY[0], name="loud")
        async with Histories.of(registry(api), *MANY[:6]) as seen:
            await until_shared(api)
            for service in MANY[1:6]:
                await seen.see(service, stay[service])
            before = {service: len(seen.shown[service]) for service in MANY[1:6]}
            for number in range(200):
                note = {"micro.mu/metadata-x": f"{number}", "note": "x" * 200_000}
                api.patch("loud", {"metadata": {"annotations": note}})
            more = shop.add(MANY[1])
            await seen.see(MANY[1], stay[MANY[1]], more)
            # The others were not even told.
            assert {len(seen.shown[one]) - before[one] for one in MANY[2:6]} == {0}
            assert loud in (seen.last(MANY[0]) or ())
            seen.check(*stay.values())


# Where a shared watch is not worth it, or does not work


async def test_a_namespace_full_of_strangers_is_not_watched_as_a_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="pymicro.kubenodes")
    async with FakeKubeApi() as api:
        shop = Shop(api)
        stay = {service: shop.add(service) for service in MANY[:6]}
        for number in range(60):
            shop.add("stranger", name=f"stranger-{number}")
        async with Histories.of(registry(api, foreign=10), *MANY[:6]) as seen:
            for service, host in stay.items():
                await seen.see(service, host)
            await api.watched(count=6)
            assert shared(api) == 0
            assert "it would bring 66 objects" in caplog.text
            # It looks again after a while.
            for number in range(40):
                api.delete(f"stranger-{number}")
            await until_shared(api)
            seen.check(*stay.values())


async def test_pods_that_are_wanted_are_no_strangers_however_many() -> None:
    async with FakeKubeApi() as api:
        shop = Shop(api)
        stay = {service: {shop.add(service) for _ in range(20)} for service in MANY[:6]}
        async with Histories.of(registry(api, foreign=1), *MANY[:6]) as seen:
            for service, hosts in stay.items():
                await seen.see(service, *hosts)
            # The sixth came when nobody knew yet how many pods it has; then it is known.
            await until_shared(api)
            seen.check(*(host for hosts in stay.values() for host in hosts))


async def test_who_may_not_list_has_a_watch_for_each() -> None:
    async with FakeKubeApi() as api:
        shop = Shop(api)
        stay = {service: shop.add(service) for service in MANY[:6]}
        api.forbid("list")
        async with Histories.of(registry(api), *MANY[:6]) as seen:
            for service, host in stay.items():
                await seen.see(service, host)
            assert shared(api) == 0


async def test_while_the_server_is_away_newcomers_hear_why_and_share_when_it_is_back() -> None:
    async with FakeKubeApi() as api:
        shop = Shop(api)
        stay = {service: shop.add(service) for service in MANY[:12]}
        async with Histories.of(registry(api), *MANY[:4]) as seen:
            for service in MANY[:4]:
                await seen.see(service, stay[service])
            refusal = api.refuse(503)
            for service in MANY[4:12]:
                seen.follow(service)
            await api.until(lambda: len(seen.errors()) == 12, "everybody hears of it", 10.0)
            # Not each of them has knocked.
            assert len({one.query.get("labelSelector") for one in api.requests} - {None}) <= 6
            refusal.end()
            for service in MANY[:12]:
                await seen.see(service, stay[service])
            await until_shared(api)
            seen.check(*stay.values())


async def test_a_shared_watch_that_is_refused_is_left_for_watches_of_their_own() -> None:
    async with FakeKubeApi() as api:
        shop = Shop(api)
        stay = {service: shop.add(service) for service in MANY[:8]}
        async with Histories.of(registry(api, again=3600.0), *MANY[:8]) as seen:
            for service, host in stay.items():
                await seen.see(service, host)
            await until_shared(api)
            api.refuse(400, selector=SHARED)
            api.close_watches()
            await api.until(lambda: len(own(api)) == len(api.watches) == 8, "a watch of its own for each")
            for service, host in stay.items():
                await seen.see(service, host, shop.add(service))
            seen.check(*stay.values())
            assert seen.errors() == []


async def test_newcomers_do_not_wait_for_a_shared_watch_that_is_refused() -> None:
    async with FakeKubeApi() as api:
        shop = Shop(api)
        stay = {service: shop.add(service) for service in MANY}
        refusal = api.refuse(400, selector=SHARED)
        async with Histories.of(registry(api), *MANY) as seen:
            for service, host in stay.items():
                await seen.see(service, host)
            refusal.end()
            # It is tried again, and then it works.
            await until_shared(api)
            seen.check(*stay.values())


@pytest.mark.parametrize("streaming", ["yes", "refused"])
async def test_a_list_that_one_service_makes_long_is_not_waited_for(
    streaming: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pymicro.kubernetes.api import reflector

    class Slow:
        """Each pod of the large service takes a second to read."""

        now = 0.0

        def read(self, found: Any) -> Any:
            self.now += found["metadata"]["name"].startswith("large")
            return selector_keys(found)

    from pymicro.kubernetes.pods import selector_keys

    slow = Slow()
    monkeypatch.setattr("pymicro.kubernetes.pods.selector_keys", slow.read)
    init = reflector.Reflector.__init__

    def with_clock(self: Any, *given: Any, **more: Any) -> None:
        init(self, *given, **more, clock=lambda: slow.now)

    monkeypatch.setattr(reflector.Reflector, "__init__", with_clock)
    async with FakeKubeApi(streaming_list=streaming) as api:
        shop = Shop(api)
        stay = {service: shop.add(service) for service in MANY[:6]}
        for number in range(10):
            shop.add(MANY[0], name=f"large-{number}")
        async with Histories.of(registry(api, again=3600.0), *MANY[:6]) as seen:
            for service in MANY[1:6]:
                await seen.see(service, stay[service])
            await api.until(lambda: len(own(api)) == len(api.watches) == 6, "a watch of its own for each")
            assert slow.now >= 5
            seen.check(*stay.values())


# Slices


def slices(api: FakeKubeApi, namespace: str = "default", **rules: Any) -> EndpointSliceRegistry:
    config = load({"registry_address": [api.url]}, environ={})
    sharing = dataclasses.replace(RULES, **rules)
    environ = {"POD_NAMESPACE": namespace}
    return EndpointSliceRegistry(config, environ=environ, timing=QUICK, sharing=sharing)


async def test_slices_of_just_these_services_come_in_one_watch() -> None:
    async with FakeKubeApi() as api:
        for number, service in enumerate(MANY):
            api.create(slice(f"{service}-x", endpoint(f"10.0.0.{number}"), service=service))
        async with Histories.of(slices(api), *MANY[:6], f"{MANY[6]}.default") as seen:
            for number, service in enumerate(MANY[:6]):
                await seen.see(service, f"10.0.0.{number}")
            await seen.see(f"{MANY[6]}.default", "10.0.0.6")
            await api.until(lambda: len(api.watches) == 1, "one watch")
            assert api.watches[0].query["labelSelector"] == (
                f"kubernetes.io/service-name in ({','.join(MANY[:7])})"
            )
            # One that joins is in the next watch, which takes over; nobody counts what is not brought.
            seen.follow(MANY[7])
            await seen.see(MANY[7], "10.0.0.7")
            await api.until(
                lambda: (
                    [MANY[7] in one.query["labelSelector"] for one in api.watches] == [True]
                    and "," in api.watches[0].query["labelSelector"]
                ),
                "one watch for eight",
            )
            assert api.count("list", "endpointslices") == 0
            api.create(slice("more", endpoint("10.0.1.6"), service=MANY[6]))
            await seen.see(f"{MANY[6]}.default", "10.0.0.6", "10.0.1.6")
            seen.check()


async def test_past_a_hundred_names_all_slices_of_services_are_watched() -> None:
    long = [f"{'x' * 50}-{number:02}" for number in range(90)]
    async with FakeKubeApi() as api:
        for number, service in enumerate(long):
            api.create(slice(f"{service}-x", endpoint(f"10.0.0.{number}"), service=service))
        async with Histories.of(slices(api), *long) as seen:
            for number, service in enumerate(long):
                await seen.see(service, f"10.0.0.{number}")
            await api.until(lambda: len(api.watches) == 1, "one watch")
            assert api.watches[0].query["labelSelector"] == "kubernetes.io/service-name"
