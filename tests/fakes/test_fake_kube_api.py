"""The fake API server passes the contract suite that the real one passes, and its faults are faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.fakes.api_client import Api, Events
from tests.fakes.api_contract import STREAM, ApiContract
from tests.fakes.kube_api import FakeKubeApi, StreamingList
from tests.fakes.kube_status import status_object
from tests.fakes.pods import pod

TOKENS = {"admin": "admin", "reader": "system:serviceaccount:default:reader"}


class TestFakeKubeApi(ApiContract):
    fake: FakeKubeApi

    @contextlib.asynccontextmanager
    async def api(self) -> AsyncIterator[Api]:
        async with (
            FakeKubeApi(tokens=TOKENS) as self.fake,
            Api(self.fake.url, {"Authorization": "Bearer admin"}) as api,
        ):
            yield api

    @contextlib.asynccontextmanager
    async def reader(self, api: Api) -> AsyncIterator[Api]:
        self.fake.forbid("patch", user=TOKENS["reader"])
        async with Api(self.fake.url, {"Authorization": "Bearer reader"}) as reader:
            yield reader

    async def forget_versions(self, api: Api) -> None:
        self.fake.forget_versions()


# The faults. What a test of the reflector blames on the reflector must not be the fake's mistake.


@contextlib.asynccontextmanager
async def watching(fake: FakeKubeApi, **query: str) -> AsyncIterator[Events]:
    """A watch of all pods of `default` that has caught up."""
    query = {"resourceVersion": str(fake.store.version), **query}
    before = sum(not watch.stuck for watch in fake.watches)
    async with Api(fake.url, {}) as api, api.watch(**query) as events:
        await fake.watched(count=before + 1)
        yield events


async def silent(events: Events, seconds: float = 0.1) -> bool:
    """Whether nothing comes, not even an end, for a moment."""
    try:
        async with asyncio.timeout(seconds):
            await events.response.content.readany()
    except TimeoutError:
        return True
    return False


async def test_requests_are_refused_as_often_as_asked_and_only_those_meant() -> None:
    async with FakeKubeApi() as fake, Api(fake.url, {}) as api:
        refusal = fake.refuse(429, verb="list", times=2, retry_after=7)
        status, answer = await api.ask("GET", api.path())
        assert (status, answer["reason"], answer["details"]["retryAfterSeconds"]) == (
            429,
            "TooManyRequests",
            7,
        )
        assert (await api.ask("GET", api.path("nobody")))[0] == 404
        assert (await api.ask("GET", api.path()))[0] == 429
        assert (await api.ask("GET", api.path()))[0] == 200
        assert refusal.given == 2
        storm = fake.refuse(500, path="/pods")
        for _ in range(3):
            assert (await api.ask("GET", api.path()))[0] == 500
        assert (await api.ask("GET", api.path(plural="endpointslices")))[0] == 200
        storm.end()
        assert (await api.ask("GET", api.path()))[0] == 200
        assert [one.status for one in fake.requests if one.verb == "list"] == [
            429,
            429,
            200,
            500,
            500,
            500,
            200,
            200,
        ]


async def test_a_held_request_waits_for_its_gate() -> None:
    async with FakeKubeApi() as fake, Api(fake.url, {}) as api:
        gate = fake.hold(verb="list")
        asking = asyncio.create_task(api.list())
        await fake.until(lambda: gate.waiting == 1, "the list waits")
        fake.create(pod("late"))
        gate.open()
        assert (await asking)[1] == ["late"]
        assert gate.waiting == 0


async def test_an_answer_can_be_held_when_all_is_done() -> None:
    async with FakeKubeApi() as fake, Api(fake.url, {}) as api:
        fake.create(pod("a"))
        gate = fake.hold(verb="patch", answers=True)
        asking = asyncio.create_task(api.mark("a", labels={"x": "1"}))
        await fake.until(lambda: gate.waiting == 1, "the answer waits")
        assert fake.get("a")["metadata"]["labels"] == {"x": "1"}
        assert not asking.done()
        gate.open()
        await asking


async def test_a_verb_forbidden_in_mid_life_leaves_open_watches_alone() -> None:
    async with FakeKubeApi() as fake, Api(fake.url, {}) as api, watching(fake) as events:
        fake.forbid("watch")
        assert (await api.ask("GET", api.path(), query={"watch": "1"}))[0] == 403
        fake.create(pod("a"))
        assert await events.change() == ("ADDED", "a")
        fake.allow("watch")
        async with watching(fake):
            pass


async def test_an_error_event_ends_the_stream() -> None:
    async with FakeKubeApi() as fake:
        for fault, code in ((fake.event_410, 410), (lambda: fake.error_event(status_object(500)), 500)):
            async with watching(fake) as events:
                fault()
                kind, obj = await events.next()
                assert (kind, obj["code"]) == ("ERROR", code)
                assert await events.line() == b""


async def test_a_clean_close_is_no_broken_connection() -> None:
    async with FakeKubeApi() as fake, watching(fake) as events:
        fake.close_watches()
        assert await events.line() == b""


async def test_a_greeting_meets_each_new_watch() -> None:
    async with FakeKubeApi() as fake, Api(fake.url, {}) as api:
        fake.create(pod("a"))
        fake.greet(lambda watch: watch.end())
        for _ in range(2):
            async with api.watch() as events:
                assert await events.change() == ("ADDED", "a")
                assert await events.line() == b""
        fake.greet(None)
        async with watching(fake) as events:
            assert await silent(events)


async def test_a_cut_is_a_broken_connection_and_leaves_half_a_line() -> None:
    async with FakeKubeApi() as fake:
        async with watching(fake) as events:
            fake.cut_watches()
            with pytest.raises(aiohttp.ClientError):
                await events.line()
        async with watching(fake) as events:
            fake.cut_mid_line()
            got = b""
            with pytest.raises(aiohttp.ClientError):
                while True:
                    got += await events.response.content.readany()
            assert got.startswith(b'{"type"')
            assert b"\n" not in got


async def test_a_half_open_watch_never_says_anything_again_and_new_ones_work() -> None:
    async with FakeKubeApi() as fake, watching(fake, timeoutSeconds="0.2") as events:
        fake.half_open()
        fake.create(pod("a"))
        fake.close_watches()
        # Its time is over too, long since.
        assert await silent(events, 0.5)
        async with watching(fake) as other:
            fake.create(pod("b"))
            assert await other.change() == ("ADDED", "b")


async def test_a_mute_server_holds_everything_back_until_it_speaks() -> None:
    async with FakeKubeApi() as fake, watching(fake) as events, Api(fake.url, {}) as api:
        fake.mute()
        fake.create(pod("a"))
        assert await silent(events)
        async with api.watch() as other:
            assert await silent(other)
            fake.speak()
            assert await other.change() == ("ADDED", "a")
        assert await events.change() == ("ADDED", "a")


async def test_pieces_tear_characters_apart() -> None:
    async with FakeKubeApi() as fake, watching(fake) as events:
        fake.in_pieces(1)
        fake.create(pod("a", annotations={"x": "🦊"}))
        pieces: list[bytes] = []
        while not pieces or not pieces[-1].endswith(b"\n"):
            pieces.append((await events.response.content.readchunk())[0])
        assert json.loads(b"".join(pieces))["object"]["metadata"]["annotations"] == {"x": "🦊"}
        fox = "🦊".encode()
        assert not any(fox in piece for piece in pieces)


async def test_a_lost_event_is_in_no_watch_but_in_the_list() -> None:
    async with FakeKubeApi() as fake, Api(fake.url, {}) as api:
        fake.create(pod("a"))
        before = str(fake.store.version)
        async with watching(fake) as events:
            fake.lose_event(lambda: fake.delete("a"))
            fake.create(pod("b"))
            assert await events.change() == ("ADDED", "b")
        async with api.watch(resourceVersion=before) as events:
            assert await events.change() == ("ADDED", "b")
        assert (await api.list())[1] == ["b"]


async def test_a_version_can_go_back() -> None:
    async with FakeKubeApi() as fake, Api(fake.url, {}) as api, watching(fake) as events:
        for name in "abc":
            fake.create(pod(name))
        was = int((await api.list())[0])
        fake.version_goes_back(2)
        assert int((await api.list())[0]) == was - 2
        with pytest.raises(aiohttp.ClientError):
            while await events.line():
                pass
        status, answer = await api.ask("GET", api.path(), query={"resourceVersion": str(was)})
        assert (status, answer["reason"]) == (504, "Timeout")


async def test_a_server_that_died_comes_back_on_its_port_with_its_objects() -> None:
    async with FakeKubeApi() as fake, watching(fake) as events:
        url = fake.url
        fake.create(pod("a"))
        await events.change()
        await fake.stop()
        with pytest.raises(aiohttp.ClientError):
            await events.line()
        async with Api(url, {}) as api:
            with pytest.raises(aiohttp.ClientConnectorError):
                await api.list()
            await fake.start()
            assert (await api.list())[1] == ["a"]
        assert fake.url == url


async def test_versions_before_one_can_be_forgotten() -> None:
    async with FakeKubeApi() as fake, Api(fake.url, {}) as api:
        first = fake.create(pod("a"))["metadata"]["resourceVersion"]
        second = fake.create(pod("b"))["metadata"]["resourceVersion"]
        fake.create(pod("c"))
        fake.forget_before(int(second))
        async with api.watch(resourceVersion=second) as events:
            assert await events.change() == ("ADDED", "c")
        async with api.watch(resourceVersion=first) as events:
            assert (await events.next())[0] == "ERROR"


@pytest.mark.parametrize("how", ["refused", "ignored", "no progress", "silent"])
async def test_servers_that_know_no_streaming_lists(how: StreamingList) -> None:
    async with FakeKubeApi(streaming_list=how) as fake, Api(fake.url, {}) as api:
        fake.create(pod("a"))
        if how == "refused":
            status, answer = await api.ask("GET", api.path(), query=STREAM)
            assert (status, answer["reason"]) == (422, "Invalid")
            return
        query = {name: value for name, value in STREAM.items() if name != "watch"}
        async with api.watch(**query) as events:
            if how == "no progress":
                kind, obj = await events.next()
                assert (kind, obj["code"]) == ("ERROR", 500)
                return
            if how == "ignored":
                assert await events.change() == ("ADDED", "a")
            assert await silent(events)


async def test_whatever_is_waited_for_in_vain_is_named() -> None:
    async with FakeKubeApi() as fake, Api(fake.url, {}) as api:
        await api.list()
        with pytest.raises(AssertionError, match=r"(?s)a miracle: not within 0\.01 s.*list /api/v1/"):
            await fake.until(lambda: False, "a miracle", within=0.01)


async def test_a_fake_listens_on_ipv6_too() -> None:
    async with FakeKubeApi(host="::1") as fake, Api(fake.url, {}) as api:
        fake.create(pod("a"))
        assert (await api.list())[1] == ["a"]


async def test_big_lists_come_compressed_to_who_takes_them_so() -> None:
    async with FakeKubeApi() as fake, Api(fake.url, {"Accept-Encoding": "gzip"}) as api:
        fake.create(pod("a", annotations={"x": "y" * 200_000}))
        async with api._session.get(fake.url + api.path()) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert len((await answer.json())["items"]) == 1
