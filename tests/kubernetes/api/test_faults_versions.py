"""Versions that are too old, gaps, lists: what a reflector makes of a server that has forgotten.

Each test is named after its fault; docs/faults.md says where it was seen.
"""

from __future__ import annotations

import dataclasses

import pytest

from pymicro.kubernetes.api.timing import ReflectorTiming
from tests.fakes.kube_api import FakeKubeApi, Request, StreamingList
from tests.fakes.kube_watch import Watch
from tests.fakes.pods import pod
from tests.fakes.slices import slice
from tests.kubernetes.api.reflecting import QUICK, Time, lists, quick, reflecting


async def test_410_in_the_stream() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        api.create(pod("b"))
        async with reflecting(api) as seen:
            await seen.shows("a", "b")
            api.lose_event(lambda: api.delete("a"))
            api.event_410()
            await seen.shows("b")
            assert lists(api) == 2
            assert seen.failures == []
            api.create(pod("c"))
            await seen.shows("b", "c")


async def test_410_as_status() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        async with reflecting(api) as seen:
            await seen.shows("a")
            api.lose_event(lambda: api.delete("a"))
            api.refuse(410, verb="watch", times=1)
            api.close_watches()
            api.create(pod("b"))
            await seen.shows("b")


@pytest.mark.parametrize("streaming", [True, False])
async def test_410_twice(streaming: bool) -> None:
    async with FakeKubeApi(streaming_list="yes" if streaming else "refused") as api:
        api.create(pod("a"))
        moment = Time()
        async with reflecting(api, moment=moment, timing=ReflectorTiming(gather=0.005)) as seen:
            await seen.shows("a")
            # Every watch answers 410, right after a list too, five times in all.
            again = iter(range(5))
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
            api.greet(lambda watch: watch.error(status) if next(again, None) is not None else None)
            before = len(moment.pauses)
            api.lose_event(lambda: api.delete("a"))
            api.create(pod("b"))
            api.event_410()
            await seen.shows("b")
            await api.until(lambda: next(again, None) is None, "five times 410")
            await api.watched()
            # Only a list without a version is sure to be new; version 0 is whatever a cache has.
            asked = [one for one in api.requests if one.verb == "list" or "sendInitialEvents" in one.query]
            assert all("resourceVersion" not in one.query for one in asked)
            assert len(moment.pauses) > before, "lists one after the other, without a pause"
            api.create(pod("c"))
            await seen.shows("b", "c")


async def test_a_continue_token_that_expires_starts_the_list_over() -> None:
    async with FakeKubeApi(streaming_list="refused") as api:
        for name in "abcde":
            api.create(pod(name))

        def expire(request: Request) -> None:
            """The first time a second page is asked for, it is too late for it."""
            if "continue" in request.query and not expired:
                expired.append(request)
                api.delete("a")
                api.create(pod("f"))
                api.forget_versions()

        expired: list[Request] = []
        api.on_request(expire)
        async with reflecting(api, timing=dataclasses.replace(QUICK, page_size=2)) as seen:
            await seen.shows(*"bcdef")
            assert expired
            assert all({one.name for one in mapping.values()} == set("bcdef") for mapping in seen.shown)


async def test_a_version_that_goes_backwards() -> None:
    async with FakeKubeApi() as api:
        for number in range(20):
            api.create(pod(f"a{number}"))
        async with reflecting(api) as seen:
            await seen.shows(*(f"a{number}" for number in range(20)))
            # etcd is restored from a backup. A watch from the version known is one from the
            # future now: it says nothing.
            api.version_goes_back(15)
            for number in range(1, 10):
                api.delete(f"a{number}")
            await seen.shows("a0", *(f"a{number}" for number in range(10, 20)))


async def test_delete_lost_in_a_gap() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        api.create(pod("b"))
        async with reflecting(api) as seen:
            await seen.shows("a", "b")
            await api.stop()
            api.delete("a")
            api.create(pod("c"))
            api.forget_versions()
            await api.start()
            await seen.shows("b", "c")
            # At once, not one by one: nobody saw c with a, nor b alone.
            names = [{one.name for one in mapping.values()} for mapping in seen.shown]
            assert [name for name in names if name not in ({"a", "b"}, {"b", "c"})] == []


async def test_an_event_the_server_lost_is_found_by_listing_again_now_and_then() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        api.create(pod("b"))
        moment = Time()
        async with reflecting(api, moment=moment, timing=ReflectorTiming(gather=0.005)) as seen:
            await seen.shows("a", "b")
            api.lose_event(lambda: api.delete("a"))
            for minute in range(29):
                moment.now += 57.0
                api.create(slice(f"other-{minute}"))
                await seen.hears_until_now(api)
            assert seen.names == {"a", "b"}
            assert lists(api) == 1, "half an hour is not over"
            for minute in range(7):
                moment.now += 57.0
                api.create(slice(f"another-{minute}"))
                await seen.hears_until_now(api)
            await seen.shows("b")
            assert lists(api) == 2
            assert seen.failures == []


@pytest.mark.parametrize("streaming", [True, False])
async def test_events_in_the_first_second_after_the_list(streaming: bool) -> None:
    async with FakeKubeApi(streaming_list="yes" if streaming else "refused") as api:
        api.create(pod("a"))
        if streaming:
            api.greet(lambda _: (api.delete("a"), api.create(pod("b"))) and api.greet(None))
            async with reflecting(api) as seen:
                await seen.shows("b")
            return
        watches = api.hold(verb="watch")
        async with reflecting(api, timing=quick(connect_timeout=30.0, stream_list_wait=0.2)) as seen:
            await seen.shows("a")
            await api.until(
                lambda: watches.waiting == 1 and api.count("list") == 1, "the watch after the list"
            )
            api.delete("a")
            api.create(pod("b"))
            watches.open()
            await seen.shows("b")
            assert lists(api) == 2, "one refused stream and one list"


async def test_an_hour_of_bookmarks_then_a_reconnect_without_a_relist() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        async with reflecting(api, timing=quick(idle_limit=30.0)) as seen:
            await seen.shows("a")
            for minute in range(60):
                # Others write; of our pods there is no news.
                api.create(slice(f"other-{minute}"))
                api.bookmark()
            last = str(api.store.version)
            await seen.until(lambda: seen.reflector.state.resource_version == last, "the last bookmark")
            api.forget_versions()
            api.close_watches()
            api.create(pod("b"))
            await seen.shows("a", "b")
            assert lists(api) == 1
            (again,) = [one for one in api.requests[1:] if one.verb == "watch"]
            assert again.query["resourceVersion"] == last
            assert again.query["allowWatchBookmarks"] == "true"


@pytest.mark.parametrize("how", ["refused", "ignored", "no progress", "silent"])
async def test_a_server_without_streaming_lists_is_asked_for_pages(how: StreamingList) -> None:
    async with FakeKubeApi(streaming_list=how) as api:
        for number in range(7):
            api.create(pod(f"a{number}"))
        timing = dataclasses.replace(QUICK, page_size=3, stream_list_wait=0.3)
        async with reflecting(api, timing=timing) as seen:
            await seen.shows(*(f"a{number}" for number in range(7)))
            assert seen.reflector.state.streaming_list is False
            pages = [one for one in api.requests if one.verb == "list"]
            assert len(pages) == 3
            assert all(one.query["limit"] == "3" for one in pages)
            assert all("resourceVersion" not in one.query for one in pages)
            await api.watched()
            api.create(pod("b"))
            await seen.has("b")
            # What did not work is not tried at each list.
            api.forget_versions()
            api.event_410()
            await api.until(lambda: api.count("list") == 6, "another list")
            assert sum("sendInitialEvents" in one.query for one in api.requests) == 1


async def test_a_streaming_list_that_is_cut_before_its_end_shows_nothing_of_it() -> None:
    async with FakeKubeApi() as api:
        for number in range(5):
            api.create(pod(f"a{number}"))
        async with reflecting(api) as seen:
            await seen.shows(*(f"a{number}" for number in range(5)))
            cuts = iter(range(2))

            def cut_short(watch: Watch) -> None:
                if next(cuts, None) is not None:
                    watch.shorten(2)
                    watch.cut()

            api.greet(cut_short)
            api.lose_event(lambda: api.delete("a4"))
            api.event_410()
            await seen.shows(*(f"a{number}" for number in range(4)))
            whole = {f"a{number}" for number in range(5)}
            names = [{one.name for one in mapping.values()} for mapping in seen.shown]
            assert all(shown in (whole, whole - {"a4"}) for shown in names)
