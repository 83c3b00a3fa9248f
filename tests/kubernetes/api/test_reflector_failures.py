"""What followers see of a reflector that fails, and that nothing ends one."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import pytest

from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import Cluster, find_cluster
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.reflector import ObjectQuery, Reflector
from pymicro.kubernetes.api.reflectors import Reflectors
from pymicro.kubernetes.api.resource import PODS
from pymicro.kubernetes.api.split import Split, SplitTable
from pymicro.kubernetes.api.timing import ReflectorTiming
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.pods import pod
from tests.kubernetes.api.reflecting import QUICK, Time, read_pod, reflecting

REFUSED = KubeError("no connection")
IDLE = KubeError("silent", kind="idle")


def reflector() -> Reflector[str]:
    """One that has listed one object, and asks nobody."""
    client = KubeClient(lambda: find_cluster(["http://127.0.0.1:1"]))
    timing = ReflectorTiming(gather=0.01)
    reflector: Reflector[str] = Reflector(client, ObjectQuery(PODS, "default"), str, timing=timing)
    table: SplitTable[str] = SplitTable(Split.whole(lambda found: "here"), "pods")
    table.put({"metadata": {"uid": "a"}})
    reflector._synced(table, "1")
    return reflector


async def next_of(seen: AsyncGenerator[Mapping[str, str], None]) -> dict[str, str]:
    return dict(await asyncio.wait_for(anext(seen), 5))


async def test_what_seemed_to_work_and_does_not_is_not_published() -> None:
    news = reflector()
    news._tell(REFUSED)
    async with aclosing(news.follow()) as seen:
        waiting = asyncio.ensure_future(next_of(seen))
        news._opened()
        news._confirm()
        news._end(IDLE)
        await asyncio.wait([waiting], timeout=0.05)
        assert not waiting.done()
        assert news.state.failure is REFUSED
        news._gathering.soon()
        assert await waiting == {"a": "here"}
        assert news.state.failure is None
        # While it works nothing is held back.
        news._opened()
        news._confirm()
        news._end(IDLE)
        assert await next_of(seen) == {"a": "here"}


async def test_a_view_cannot_be_written_to() -> None:
    async with aclosing(reflector().follow()) as seen:
        view = await anext(seen)
        with pytest.raises(TypeError):
            view["a"] = "there"  # type: ignore[index]


# What nobody has thought of


async def test_a_name_look_up_that_gets_no_thread_is_a_failure_like_any_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start, without = threading.Thread.start, [True]

    def no_more(thread: threading.Thread) -> None:
        if without and "asyncio" in thread.name:
            raise RuntimeError("can't start new thread")
        start(thread)

    async with FakeKubeApi() as api:
        api.create(pod("a"))
        address = api.url.replace("127.0.0.1", "localhost")
        if not socket.getaddrinfo("localhost", 0, socket.AF_INET):
            pytest.skip("this machine has no localhost")
        await (await find_cluster((address,), environ={})).login(None)  # the library is imported
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
        monkeypatch.setattr(threading.Thread, "start", no_more)
        async with reflecting(api, address=address) as seen:
            failure = await seen.fails()
            assert "can't start new thread" in str(failure)
            assert failure.kind == "unexpected"
            without.clear()
            await seen.shows("a")


async def test_error_events_of_any_shape() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        moment = Time()
        async with reflecting(api, moment=moment) as seen:
            await seen.shows("a")
            for status in (
                {"code": 500, "details": {"retryAfterSeconds": 10**400}},
                {"code": 10**400, "reason": ["x"], "message": {"x": 1}, "details": []},
                {"code": True, "details": {"causes": [{"reason": 3}, None], "retryAfterSeconds": -1}},
                {"code": -(10**4000)},
            ):
                await api.watched()
                api.error_event(status)
                await api.until(lambda: not any(watch.live for watch in api.watches), "the watch is gone")
                name = f"b{api.store.version}"
                api.create(pod(name))
                await seen.has(name)
            # However long the server asks for: two minutes, and chance.
            assert 100.0 < max(moment.pauses) <= 130.0


async def test_certificates_that_a_cleaner_removed_are_a_failure_of_the_moment_and_of_nobody_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        there = False

        async def find() -> Cluster:
            """As when a cleaner of /tmp removed the folder with the certificates."""
            if not there:
                raise FileNotFoundError(2, "No such file", "/tmp/certificates/ca.crt")
            return await find_cluster((api.url,), environ={})

        async with KubeClient(find) as client, Reflectors(client, timing=QUICK) as reflectors:
            one, other = ObjectQuery(PODS, "default"), ObjectQuery(PODS, "default", "app=x")
            async with reflectors.use(one, read_pod) as first, reflectors.use(other, read_pod) as second:
                async with aclosing(first.follow()) as seen:
                    with pytest.raises(KubeError, match="No such file"):
                        await asyncio.wait_for(anext(seen), 5)
                there = True
                async with aclosing(second.follow()) as seen:
                    assert dict(await asyncio.wait_for(anext(seen), 5)) == {}
                async with aclosing(first.follow()) as seen:
                    assert len(await asyncio.wait_for(anext(seen), 5)) == 1
        assert "FileNotFoundError" in caplog.text
