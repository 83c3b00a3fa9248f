"""One reflector for all who ask for the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.query import ObjectQuery
from pymicro.kubernetes.api.reflector import Reflector
from pymicro.kubernetes.api.reflectors import Reflectors
from pymicro.kubernetes.api.resource import PODS
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.pods import pod

ALL = ObjectQuery(PODS, "default")


class Reader:
    """Somebody with a parser of his own."""

    def address(self, found: Mapping[str, Any]) -> str:
        return str(found["status"]["podIP"])


@asynccontextmanager
async def sharing(api: FakeKubeApi) -> AsyncIterator[Reflectors]:
    async with KubeClient(lambda: find_cluster([api.url])) as client, Reflectors(client) as reflectors:
        yield reflectors


async def addresses(reflector: Reflector[str]) -> list[str]:
    async with asyncio.timeout(30), aclosing(reflector.follow()) as seen:
        return sorted((await anext(seen)).values())


async def test_who_asks_for_the_same_shares_one_watch() -> None:
    async with FakeKubeApi() as api, sharing(api) as reflectors:
        api.create(pod("a", "10.0.0.1"))
        reader = Reader()
        async with reflectors.use(ALL, reader.address) as one, reflectors.use(ALL, reader.address) as other:
            assert one is other
            assert await addresses(one) == ["10.0.0.1"]
            assert reflectors.running == (one,)
            assert len(api.requests) == 1


async def test_another_query_or_parser_is_another_watch() -> None:
    async with FakeKubeApi() as api, sharing(api) as reflectors:
        reader = Reader()
        async with (
            reflectors.use(ALL, reader.address) as one,
            reflectors.use(ALL, Reader().address) as another_parser,
            reflectors.use(ObjectQuery(PODS, "default", labels="a=b"), reader.address) as another_query,
        ):
            assert len({id(one), id(another_parser), id(another_query)}) == 3
            await api.watched(count=3)


async def test_the_last_to_leave_ends_the_watch_and_the_next_to_come_starts_anew() -> None:
    async with FakeKubeApi() as api, sharing(api) as reflectors:
        reader = Reader()
        async with reflectors.use(ALL, reader.address) as first:
            async with reflectors.use(ALL, reader.address):
                await api.watched()
            assert reflectors.running == (first,)
            late = first.follow()
            await anext(late)
        assert reflectors.running == ()
        assert not [task for task in asyncio.all_tasks() if "reflector of" in task.get_name()]
        await api.until(lambda: not api.watches, "the end of the watch")
        # Nobody waits for a reflector that has ended.
        assert [view async for view in late] == []
        api.create(pod("a", "10.0.0.1"))
        async with reflectors.use(ALL, reader.address) as second:
            assert second is not first
            assert await addresses(second) == ["10.0.0.1"]
            assert first.state.objects == 0


async def test_closing_ends_everything_for_who_has_not_left() -> None:
    async with FakeKubeApi() as api, KubeClient(lambda: find_cluster([api.url])) as client:
        async with Reflectors(client) as reflectors:
            use = reflectors.use(ALL, Reader().address)
            reflector = await use.__aenter__()
            seen = reflector.follow()
            await anext(seen)
        assert [view async for view in seen] == []
        await use.__aexit__(None, None, None)
        with pytest.raises(RuntimeError, match="not open"):
            async with reflectors.use(ALL, Reader().address):
                pass


async def test_a_watch_inherits_nothing_from_whoever_asks_first() -> None:
    from contextvars import ContextVar

    variable = ContextVar("deadline", default="none")
    seen = []

    def parse(found: Mapping[str, Any]) -> str:
        seen.append(variable.get())
        return ""

    async with FakeKubeApi() as api, sharing(api) as reflectors:
        api.create(pod("a", "10.0.0.1"))
        variable.set("a handler's")
        async with reflectors.use(ALL, parse) as reflector:
            await addresses(reflector)
    assert seen == ["none"]
