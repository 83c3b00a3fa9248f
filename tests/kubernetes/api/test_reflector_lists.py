"""How a reflector lists: by streaming where it can, in pages where it must, whole or not at all."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from pymicro.base.tasks import Tasks
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.reflector import ObjectQuery, Reflector
from pymicro.kubernetes.api.resource import PODS
from pymicro.kubernetes.api.timing import ReflectorTiming
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.kube_status import status_object
from tests.fakes.kube_watch import Watch
from tests.fakes.pods import pod
from tests.kubernetes.api.serving import Served, serving

QUICK = ReflectorTiming(
    backoff_initial=0.02, backoff_maximum=0.1, short_watch=0.01, gather=0.01, stream_list_wait=5.0
)


@asynccontextmanager
async def reflecting(url: str, timing: ReflectorTiming = QUICK) -> AsyncIterator[Reflector[str]]:
    async with KubeClient(lambda: find_cluster([url], environ={})) as client, Tasks("test") as tasks:
        reflector: Reflector[str] = Reflector(
            client, ObjectQuery(PODS, "default"), lambda found: str(found["metadata"]["name"]), timing=timing
        )
        tasks.start(reflector.run(), "reflector")
        yield reflector


async def first(reflector: Reflector[str]) -> list[str]:
    async with asyncio.timeout(30), aclosing(reflector.follow()) as seen:
        return sorted((await anext(seen)).values())


async def until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - servers and reflectors tell nobody
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"not in time: {what}")


def streamed(api: FakeKubeApi) -> list[bool]:
    """For each list asked for, whether it was a streaming one."""
    return [
        "sendInitialEvents" in request.query
        for request in api.requests
        if request.verb == "list" or "sendInitialEvents" in request.query
    ]


async def test_after_two_expired_versions_in_a_row_pages_are_asked_for() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        api.greet(lambda watch: watch.error(status_object(410, "too old")))
        async with reflecting(api.url) as reflector:
            await until(lambda: api.count("list") >= 1, "a list in pages")
            assert streamed(api)[:3] == [True, True, False]
            api.greet(None)
            await api.watched()
            api.create(pod("b"))
            await until(lambda: reflector.state.objects == 2, "the second pod")
            # An event has come, so the next one is the first again.
            api.event_410()
            await until(lambda: streamed(api)[-1], "a streaming list")


async def test_a_streaming_list_that_broke_for_once_is_tried_again_the_next_time() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))

        def breaks(watch: Watch) -> None:
            if "sendInitialEvents" in watch.query:
                watch.shorten(1)
                watch.cut()

        api.greet(breaks)
        async with reflecting(api.url) as reflector:
            assert await first(reflector) == ["a"]
            assert streamed(api) == [True, False]
            assert reflector.state.streaming_list is None
            await api.watched()
            api.greet(None)
            api.event_410()
            await until(lambda: reflector.state.lists == 2, "another list")
            assert streamed(api) == [True, False, True]
            assert reflector.state.streaming_list is True


async def test_a_streaming_list_that_is_refused_is_not_tried_again_for_a_while() -> None:
    async with FakeKubeApi(streaming_list="refused") as api, reflecting(api.url) as reflector:
        await first(reflector)
        await api.watched()
        api.event_410()
        await until(lambda: reflector.state.lists == 2, "another list")
        assert streamed(api) == [True, False, False]


async def test_the_silence_a_list_may_have_is_not_that_of_a_watch() -> None:
    async with FakeKubeApi() as api:
        timing = dataclasses.replace(QUICK, stream_list_wait=0.1)
        async with reflecting(api.url, timing) as reflector:
            await first(reflector)
            await asyncio.sleep(0.3)  # nothing is what happens: there is no event to wait for
            api.create(pod("a"))
            await until(lambda: reflector.state.objects == 1, "the pod")
            assert dict(reflector.state.errors) == {}


async def test_who_may_not_watch_does_not_list_instead() -> None:
    async with FakeKubeApi() as api:
        api.forbid("watch")
        async with reflecting(api.url) as reflector:
            with pytest.raises(KubeError, match="may not watch pods"):
                await first(reflector)
            await api.until(lambda: api.count("watch") >= 3, "more tries")
            assert api.count("list") == 0


async def test_lists_are_repeated_at_moments_of_ones_own() -> None:
    asked_for: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked_for.append((low, high))
        return high

    async with (
        FakeKubeApi() as api,
        KubeClient(lambda: find_cluster([api.url], environ={})) as client,
        Tasks("test") as tasks,
    ):
        reflector: Reflector[str] = Reflector(client, ObjectQuery(PODS, None), lambda _: "", uniform=uniform)
        tasks.start(reflector.run(), "reflector")
        await first(reflector)
    assert asked_for == [(300.0, 600.0), (-180.0, 180.0)]


# Servers that behave as no real one should

Lines = AsyncIterator[dict[str, Any]]


def event(kind: str, name: str, version: int) -> dict[str, Any]:
    metadata = {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"type": kind, "object": {"metadata": metadata}}


def error(code: int) -> dict[str, Any]:
    return {"type": "ERROR", "object": {"kind": "Status", "code": code}}


@asynccontextmanager
async def scripted(initial: Callable[[], Lines] | None, pages: list[dict[str, Any]]) -> AsyncIterator[Served]:
    """A server with this streaming list (None: it refuses) and these pages; its watches are silent."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if "watch" not in request.query:
            number = int(request.query.get("continue", 0))
            return web.json_response(pages[number])
        if "sendInitialEvents" in request.query and initial is None:
            return web.json_response({}, status=400)
        response = web.StreamResponse()
        await response.prepare(request)
        if "sendInitialEvents" in request.query and initial is not None:
            async for line in initial():
                await response.write(json.dumps(line).encode() + b"\n")
            return response
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(answer) as served:
        yield served


def asked(served: Served) -> list[str]:
    """What came, each in a word."""
    words = []
    for request in served.requests:
        if "watch" not in request.query:
            words.append(f"page {request.query.get('continue', '0')}")
        elif "sendInitialEvents" in request.query:
            words.append("stream")
        else:
            words.append(f"watch {request.query.get('resourceVersion')}")
    return words


def page(*names: str, version: str | None = "5", proceed: str = "") -> dict[str, Any]:
    metadata = {**({"resourceVersion": version} if version else {}), "continue": proceed}
    return {"metadata": metadata, "items": [event("", name, 1)["object"] for name in names]}


PAGES = [page("a")]


async def test_a_watch_begins_at_the_version_of_the_first_page() -> None:
    pages = [page("a", version="5", proceed="1"), page("b", version="9")]
    async with scripted(None, pages) as served, reflecting(served.url) as reflector:
        assert await first(reflector) == ["a", "b"]
        await until(lambda: len(served.requests) == 4, "a watch")
        assert asked(served) == ["stream", "page 0", "page 1", "watch 5"]


async def test_a_list_without_a_version_is_none_and_no_watch_begins_anywhere() -> None:
    async with scripted(None, [page("a", version=None)]) as served, reflecting(served.url) as reflector:
        with pytest.raises(KubeError, match="has no resourceVersion"):
            await first(reflector)
        await until(lambda: asked(served).count("page 0") >= 3, "more tries")
        assert set(asked(served)) == {"stream", "page 0"}
        assert not reflector.state.synced


async def test_a_list_that_does_not_go_on_is_an_error_and_no_endless_one() -> None:
    pages = [page("a", proceed="1"), page("b", proceed="1")]
    async with scripted(None, pages) as served, reflecting(served.url) as reflector:
        with pytest.raises(KubeError, match="does not go on"):
            await first(reflector)
        assert asked(served)[:3] == ["stream", "page 0", "page 1"]


async def test_a_streaming_list_that_never_ends_is_left_for_pages() -> None:
    async def endless() -> Lines:
        for number in range(100_000):
            yield event("ADDED", "x", number + 1)
            await asyncio.sleep(0.01)

    timing = dataclasses.replace(QUICK, stream_list_limit=0.2)
    async with scripted(endless, PAGES) as served, reflecting(served.url, timing) as reflector:
        assert await first(reflector) == ["a"]
        assert asked(served)[:2] == ["stream", "page 0"]
        assert reflector.state.streaming_list is False


async def test_what_changes_during_a_streaming_list_is_part_of_it() -> None:
    async def busy() -> Lines:
        yield event("ADDED", "a", 1)
        yield event("ADDED", "b", 2)
        yield event("MODIFIED", "c", 3)
        yield event("DELETED", "a", 4)
        metadata = {"resourceVersion": "4", "annotations": {"k8s.io/initial-events-end": "true"}}
        yield {"type": "BOOKMARK", "object": {"metadata": metadata}}
        await asyncio.Event().wait()

    async with scripted(busy, PAGES) as served, reflecting(served.url) as reflector:
        assert await first(reflector) == ["b", "c"]
        assert reflector.state.resource_version == "4"
        assert asked(served) == ["stream"]


@pytest.mark.parametrize(
    ("code", "kind", "pages"),
    [
        (401, "unauthorized", 0),
        (403, "forbidden", 0),
        (429, "throttled", 0),
        (410, "expired", 1),
        (500, "refused", 1),
        (504, "refused", 1),
    ],
)
async def test_an_error_in_a_streaming_list_leads_to_pages_unless_they_would_fail_too(
    code: int, kind: str, pages: int
) -> None:
    async def fails() -> Lines:
        yield error(code)

    async with scripted(fails, PAGES) as served, reflecting(served.url) as reflector:
        if pages:
            assert await first(reflector) == ["a"]
        else:
            with pytest.raises(KubeError) as caught:
                await first(reflector)
            assert (caught.value.status, caught.value.kind) == (code, kind)
        assert reflector.state.errors[kind] >= 1
        assert asked(served).count("page 0") == pages


async def test_an_event_older_than_what_is_known_has_everything_listed_again() -> None:
    async def restored() -> Lines:
        metadata = {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}}
        yield {"type": "BOOKMARK", "object": {"metadata": metadata}}
        yield event("ADDED", "from another history", 8)
        await asyncio.Event().wait()

    async with scripted(restored, PAGES) as served, reflecting(served.url) as reflector:
        assert await first(reflector) == []
        await until(lambda: "page 0" in asked(served), "pages, after twice the same")
        assert asked(served)[:3] == ["stream", "stream", "page 0"]
        await until(lambda: reflector.state.objects == 1, "the list")
        assert reflector.state.errors["backwards"] == 2
        assert await first(reflector) == ["a"]


async def test_a_broken_line_has_everything_listed_again() -> None:
    async def broken() -> Lines:
        yield event("ADDED", "a", 1)
        metadata = {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}
        yield {"type": "BOOKMARK", "object": {"metadata": metadata}}
        yield {"neither": "type nor object"}

    async with scripted(broken, PAGES) as served, reflecting(served.url) as reflector:
        await first(reflector)
        await until(lambda: len(served.requests) >= 3, "more lists")
        # Streams break twice in a row, so pages are asked for: they are no stream.
        assert asked(served)[:3] == ["stream", "stream", "page 0"]
        assert reflector.state.errors["malformed"] >= 1
