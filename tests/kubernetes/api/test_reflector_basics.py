"""The reflector when nothing is wrong: what followers see, when, and what it asks for."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from pymicro.base.errors import ConfigError
from pymicro.base.tasks import Tasks
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import Cluster, find_cluster
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.reflector import ObjectQuery, Reflector, ReflectorTiming
from pymicro.kubernetes.api.resource import PODS
from tests.fakes.kube_api import FakeKubeApi, Request, StreamingList
from tests.fakes.pods import pod

QUICK = ReflectorTiming(
    backoff_initial=0.02, backoff_maximum=0.1, short_watch=0.1, gather=0.01, stream_list_wait=5.0
)
GREETERS = ObjectQuery(PODS, "default", labels="app=greeter")


def address(found: Mapping[str, Any]) -> str | None:
    """The pod's IP: none that is not there, and none that is nonsense."""
    ip = found["status"].get("podIP")
    if ip == "nonsense":
        raise ValueError("its address is nonsense")
    return ip


def greeter(name: str, ip: str, **changes: Any) -> dict[str, Any]:
    return pod(name, ip, labels={"app": "greeter"}, **changes)


@asynccontextmanager
async def reflecting(
    api: FakeKubeApi, query: ObjectQuery = GREETERS, timing: ReflectorTiming = QUICK, parse: Any = address
) -> AsyncIterator[Reflector[str]]:
    async with KubeClient(lambda: find_cluster([api.url])) as client:
        reflector: Reflector[str] = Reflector(client, query, parse, timing=timing)
        async with Tasks("test") as tasks:
            tasks.start(reflector.run(), "reflector")
            yield reflector


async def until(seen: AsyncGenerator[Mapping[str, str], None], *expected: str) -> Mapping[str, str]:
    """Read until exactly these values are there."""
    newest: Mapping[str, str] = {}
    try:
        async with asyncio.timeout(30):
            async for newest in seen:
                if sorted(newest.values()) == sorted(expected):
                    return newest
    except TimeoutError:
        pass
    raise AssertionError(f"{sorted(expected)} did not come, at last there was {sorted(newest.values())}")


async def test_pods_come_change_and_go() -> None:
    async with FakeKubeApi() as api:
        api.create(greeter("a", "10.0.0.1"))
        api.create(pod("other", "10.0.0.9", labels={"app": "other"}))
        async with reflecting(api) as reflector, aclosing(reflector.follow()) as seen:
            await until(seen, "10.0.0.1")
            api.create(greeter("b", "10.0.0.2"))
            await until(seen, "10.0.0.1", "10.0.0.2")
            api.update(greeter("b", "10.0.0.3"))
            await until(seen, "10.0.0.1", "10.0.0.3")
            api.delete("a")
            await until(seen, "10.0.0.3")
            state = reflector.state
    assert (state.synced, state.objects, state.lists, state.watches, state.restarts) == (True, 1, 1, 1, 0)
    assert state.streaming_list is True
    assert dict(state.errors) == {}


async def test_an_empty_collection_is_synced_and_seen_as_empty() -> None:
    async with (
        FakeKubeApi() as api,
        reflecting(api) as reflector,
        aclosing(reflector.follow()) as seen,
    ):
        async with asyncio.timeout(30):
            assert dict(await anext(seen)) == {}


async def test_a_list_in_pages_is_followed_by_a_watch_from_its_version() -> None:
    async with FakeKubeApi(streaming_list="refused") as api:
        for number in range(7):
            api.create(greeter(f"p{number}", f"10.0.0.{number}"))
        timing = ReflectorTiming(page_size=3, gather=0.01)
        async with reflecting(api, timing=timing) as reflector, aclosing(reflector.follow()) as seen:
            await until(seen, *(f"10.0.0.{number}" for number in range(7)))
            version = api.store.version
            await api.watched()
            api.delete("p3")
            await until(seen, *(f"10.0.0.{number}" for number in range(7) if number != 3))
            assert reflector.state.streaming_list is False
            assert reflector.state.lists == 1
        first, *rest = api.requests
        assert first.query["sendInitialEvents"] == "true"
        assert [request.verb for request in rest] == ["list", "list", "list", "watch"]
        assert all("resourceVersion" not in request.query for request in rest[:3])
        assert int(rest[3].query["resourceVersion"]) == version
        assert rest[3].query["allowWatchBookmarks"] == "true"
        assert 300 <= int(rest[3].query["timeoutSeconds"]) <= 600


async def test_every_watch_asks_for_another_length() -> None:
    async with FakeKubeApi() as api, contextlib.AsyncExitStack() as stack:
        for _ in range(4):
            reflector = await stack.enter_async_context(reflecting(api))
            await until(await stack.enter_async_context(aclosing(reflector.follow())))
        assert len({request.query["timeoutSeconds"] for request in api.requests}) > 1


async def test_a_follower_that_comes_late_sees_what_is_there_at_once() -> None:
    async with FakeKubeApi() as api:
        api.create(greeter("a", "10.0.0.1"))
        async with reflecting(api) as reflector:
            async with aclosing(reflector.follow()) as seen:
                await until(seen, "10.0.0.1")
            async with aclosing(reflector.follow()) as late:
                assert await asyncio.wait_for(anext(late), 5) == {reflector_uid(api): "10.0.0.1"}


def reflector_uid(api: FakeKubeApi) -> str:
    return str(api.get("a")["metadata"]["uid"])


async def test_a_slow_follower_sees_the_newest_only_and_holds_nobody_up() -> None:
    async with FakeKubeApi() as api:
        api.create(greeter("a", "10.0.0.1"))
        async with (
            reflecting(api) as reflector,
            aclosing(reflector.follow()) as slow,
            aclosing(reflector.follow()) as quick,
        ):
            await until(slow, "10.0.0.1")
            for number in range(2, 6):
                api.update(greeter("a", f"10.0.0.{number}"))
                await until(quick, f"10.0.0.{number}")
            assert list((await anext(slow)).values()) == ["10.0.0.5"]


async def test_changes_are_gathered_before_they_are_seen() -> None:
    async with (
        FakeKubeApi() as api,
        reflecting(api, timing=ReflectorTiming(gather=0.05)) as reflector,
        aclosing(reflector.follow()) as seen,
    ):
        await until(seen)
        for number in range(100):
            api.create(greeter(f"p{number}", f"10.0.0.{number}"))
        views = 0
        async for view in seen:
            views += 1
            if len(view) == 100:
                break
        assert views <= 10


async def test_an_unchanged_value_is_no_news_but_a_bookmark_is_a_confirmation() -> None:
    async with FakeKubeApi() as api:
        api.create(greeter("a", "10.0.0.1"))
        async with reflecting(api) as reflector, aclosing(reflector.follow()) as seen:
            await until(seen, "10.0.0.1")
            version = reflector.state.resource_version
            api.patch("a", {"metadata": {"annotations": {"of": "no interest"}}})
            news = asyncio.ensure_future(anext(seen))
            await arrived(reflector, version)
            await asyncio.wait([news], timeout=10 * QUICK.gather)
            assert not news.done()
            api.bookmark()
            assert list((await asyncio.wait_for(news, 5)).values()) == ["10.0.0.1"]


async def arrived(reflector: Reflector[str], version: str) -> None:
    """The reflector has heard of something after `version`."""
    async with asyncio.timeout(30):
        while reflector.state.resource_version == version:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)


async def test_a_pod_that_is_not_of_interest_any_more_is_gone() -> None:
    async with FakeKubeApi() as api:
        api.create(greeter("a", "10.0.0.1"))
        async with reflecting(api) as reflector, aclosing(reflector.follow()) as seen:
            await until(seen, "10.0.0.1")
            api.update(greeter("a", ""))
            await until(seen)
            assert reflector.state.skipped == 0


async def test_a_bad_object_is_skipped_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeKubeApi() as api:
        api.create(greeter("bad", "nonsense"))
        api.create(greeter("good", "10.0.0.1"))
        async with reflecting(api) as reflector, aclosing(reflector.follow()) as seen:
            await until(seen, "10.0.0.1")
            assert reflector.state.skipped == 1
            api.patch("bad", {"metadata": {"annotations": {"still": "bad"}}})
            api.update(greeter("good", "10.0.0.2"))
            await until(seen, "10.0.0.2")
            assert reflector.state.skipped == 1
            said = [record.message for record in caplog.records if "skipped" in record.message]
            assert said == [
                "pods in namespace default with app=greeter: default/bad is skipped: its address is nonsense"
            ]
            api.update(greeter("bad", "10.0.0.3"))
            await until(seen, "10.0.0.2", "10.0.0.3")
            assert reflector.state.skipped == 0
            # What was good and turns bad is there no more.
            api.update(greeter("bad", "nonsense"))
            await until(seen, "10.0.0.2")


async def test_a_parser_that_trips_over_an_object_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def trips(found: Mapping[str, Any]) -> str:
        return str(found["metadata"]["annotations"]["address"])

    async with FakeKubeApi() as api:
        api.create(greeter("bad", "10.0.0.1"))
        api.create(greeter("good", "10.0.0.2", annotations={"address": "here"}))
        async with reflecting(api, parse=trips) as reflector, aclosing(reflector.follow()) as seen:
            await until(seen, "here")
            assert reflector.state.skipped == 1
    assert "default/bad is skipped: reading it failed with KeyError('annotations')" in caplog.text
    assert "Traceback" in caplog.text


async def test_everything_is_listed_again_after_a_while_and_heals_what_was_lost() -> None:
    async with FakeKubeApi() as api:
        api.create(greeter("a", "10.0.0.1"))
        timing = ReflectorTiming(resync=0.3, short_watch=0.05, watch_timeout=(1, 1), gather=0.01)
        async with reflecting(api, timing=timing) as reflector, aclosing(reflector.follow()) as seen:
            await until(seen, "10.0.0.1")
            await api.until(lambda: len(api.requests) >= 3, "two more lists")
            assert all(request.query.get("sendInitialEvents") for request in api.requests)
            assert reflector.state.lists >= 2
            assert reflector.state.restarts == 0


async def test_a_watch_that_ends_as_agreed_goes_on_without_a_list_and_without_telling() -> None:
    async with FakeKubeApi() as api:
        api.create(greeter("a", "10.0.0.1"))
        timing = ReflectorTiming(watch_timeout=(1, 1), short_watch=0.5, gather=0.01)
        async with reflecting(api, timing=timing) as reflector, aclosing(reflector.follow()) as seen:
            await until(seen, "10.0.0.1")
            await api.until(lambda: len(api.requests) == 2, "a second watch")
            api.update(greeter("a", "10.0.0.2"))
            await until(seen, "10.0.0.2")
            state = reflector.state
    assert (state.lists, state.watches, state.restarts, dict(state.errors)) == (1, 2, 0, {})


async def test_followers_end_with_the_reflector() -> None:
    async with FakeKubeApi() as api:
        async with reflecting(api) as reflector:
            seen = reflector.follow()
            await until(seen)
        assert [view async for view in seen] == []


async def test_nothing_is_seen_before_everything_is_known() -> None:
    async with FakeKubeApi() as api:
        for number in range(50):
            api.create(greeter(f"p{number}", f"10.0.0.{number}"))
        async with reflecting(api) as reflector, aclosing(reflector.follow()) as seen:
            assert len(await asyncio.wait_for(anext(seen), 5)) == 50


@pytest.mark.parametrize("streaming", ["yes", "refused"])
async def test_reading_a_list_lets_others_run(streaming: StreamingList) -> None:
    turned = 0

    async def other() -> None:
        nonlocal turned
        while True:
            turned += 1
            await asyncio.sleep(0)

    async with FakeKubeApi(streaming_list=streaming) as api:
        for number in range(300):
            api.create(greeter(f"p{number}", f"10.0.0.{number}"))
        parsed: list[int] = []

        def parse(found: Mapping[str, Any]) -> str:
            parsed.append(turned)
            return "x"

        async with reflecting(api, timing=ReflectorTiming(yield_after=0.0), parse=parse) as reflector:
            task = asyncio.create_task(other())
            async with aclosing(reflector.follow()) as seen:
                await anext(seen)
            task.cancel()
    # Between any two objects, though all of them had arrived.
    assert len(set(parsed)) == 300


async def test_a_cluster_that_is_found_later_is_followed_from_then_on() -> None:
    async with FakeKubeApi() as api:
        api.create(greeter("a", "10.0.0.1"))
        found: list[str] = []

        async def find() -> Cluster:
            if not found:
                raise ConfigError("no kubeconfig")
            return await find_cluster(found, environ={})

        async with KubeClient(find) as client, Tasks("test") as tasks:
            reflector: Reflector[str] = Reflector(client, GREETERS, address, timing=QUICK)
            tasks.start(reflector.run(), "reflector")
            async with aclosing(reflector.follow()) as seen:
                with pytest.raises(KubeError, match="no kubeconfig"):
                    await anext(seen)
            found.append(api.url)
            async with asyncio.timeout(30):
                while not reflector.state.synced:
                    async with aclosing(reflector.follow()) as seen:
                        with contextlib.suppress(KubeError):
                            assert list((await anext(seen)).values()) == ["10.0.0.1"]
            assert reflector.state.failure is None
            assert reflector.state.errors["config"] >= 1


async def test_a_page_that_is_refused_for_the_moment_is_asked_for_again_and_not_those_before() -> None:
    async with FakeKubeApi(streaming_list="refused") as api:
        for number in range(6):
            api.create(greeter(f"p{number}", f"10.0.0.{number}"))

        def busy(request: Request) -> None:
            if request.verb == "list" and api.count("list") == 2:
                api.refuse(429, verb="list", times=1, retry_after=0)

        api.on_request(busy)
        async with reflecting(api, timing=dataclasses.replace(QUICK, page_size=2)) as reflector:
            async with asyncio.timeout(30):
                while not reflector.state.synced:
                    await api.watched()
        pages = [request.query.get("continue") for request in api.requests if request.verb == "list"]
        assert len(pages) == 4
        assert pages.count(None) == 1
        assert pages[1] == pages[2]
        assert reflector.state.objects == 6


async def test_followers_see_that_it_works_again_though_nothing_has_changed() -> None:
    async with FakeKubeApi() as api:
        api.create(greeter("a", "10.0.0.1"))
        async with reflecting(api) as reflector:
            async with aclosing(reflector.follow()) as seen:
                await until(seen, "10.0.0.1")
                await api.stop()
                with pytest.raises(KubeError, match="cannot watch pods"):
                    await asyncio.wait_for(anext(seen), 5)
            await api.start()
            async with asyncio.timeout(30):
                while reflector.state.failure is not None:
                    async with aclosing(reflector.follow()) as seen:
                        with contextlib.suppress(KubeError):
                            assert list((await anext(seen)).values()) == ["10.0.0.1"]
            assert reflector.state.lists == 1
