"""Objects that are bad or change in unexpected ways, and readers that are slow.

Each test is named after its fault; docs/faults.md says where it was seen.
"""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.pods import pod
from tests.kubernetes.api.reflecting import PATIENCE, Pod, lists, reflecting


async def test_one_bad_object_is_skipped_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pymicro")
    async with FakeKubeApi() as api:
        api.create(pod("good"))
        api.create(pod("bad", annotations={"bad": "it is upside down"}))
        async with reflecting(api) as seen:
            await seen.shows("good")
            assert seen.reflector.state.skipped == 1
            for turn in range(3):
                api.patch("bad", {"metadata": {"annotations": {"turn": str(turn)}}})
            api.create(pod("other"))
            await seen.shows("good", "other")
            api.event_410()
            await api.until(lambda: lists(api) == 2, "a list")
            await api.watched()
            said = [record for record in caplog.records if "upside down" in record.getMessage()]
            assert len(said) == 1
            assert not said[0].exc_info, "no bug of ours, so no traceback"
            api.patch("bad", {"metadata": {"annotations": {"bad": None}}})
            await seen.shows("good", "bad", "other")
            assert seen.reflector.state.skipped == 0


async def test_a_bug_in_reading_an_object_hides_no_other() -> None:
    def read(found: object) -> Pod | None:
        assert isinstance(found, dict)
        if found["metadata"]["name"] == "strange":
            raise RuntimeError("nobody thought of this")
        return Pod(found["metadata"]["name"])

    async with FakeKubeApi() as api:
        api.create(pod("strange"))
        api.create(pod("a"))
        async with reflecting(api, parse=read) as seen:
            await seen.shows("a")
            api.update(pod("strange", annotations={"x": "y"}))
            api.create(pod("b"))
            await seen.shows("a", "b")
            assert seen.failures == []


async def test_deletion_timestamp_arriving_as_modified() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        async with reflecting(api) as seen:
            await seen.shows("a")
            api.terminate("a")
            await seen.until(lambda: all(one.terminating for one in seen.shown[-1].values()), "terminating")
            assert seen.names == {"a"}
            api.delete("a")
            await seen.shows()


async def test_label_removed_and_given_back() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a", labels={"app": "x"}))
        api.create(pod("b", labels={"app": "x"}))
        async with reflecting(api, labels="app=x") as seen:
            await seen.shows("a", "b")
            api.patch("a", {"metadata": {"labels": {"app": "y"}}})
            await seen.shows("b")
            api.patch("a", {"metadata": {"labels": {"app": "x"}}})
            await seen.shows("a", "b")


async def test_pod_restarted_under_the_same_name_and_ip() -> None:
    async with FakeKubeApi() as api:
        old = api.create(pod("a", "10.0.0.1"))
        async with reflecting(api) as seen:
            await seen.shows("a")
            api.delete("a")
            new = api.create(pod("a", "10.0.0.1"))
            await seen.until(lambda: set(seen.shown[-1]) == {new["metadata"]["uid"]}, "the new pod only")
            # The old one's end, told once more and late, is not the new one's.
            event = {"type": "DELETED", "object": {**old, "metadata": {**old["metadata"]}}}
            event["object"]["metadata"]["resourceVersion"] = str(api.store.version)
            api.send_line(json.dumps(event).encode() + b"\n")
            api.create(pod("b"))
            await seen.shows("a", "b")


async def test_a_slow_subscriber() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        async with reflecting(api) as seen:
            await seen.shows("a")
            slow = seen.reflector.follow()
            try:
                async with asyncio.timeout(PATIENCE):
                    assert {one.name for one in (await anext(slow)).values()} == {"a"}
                # It does not read on. Others do.
                for number in range(5):
                    api.create(pod(f"b{number}"))
                    await seen.has(f"b{number}")
                async with asyncio.timeout(PATIENCE):
                    newest = {one.name for one in (await anext(slow)).values()}
                assert newest == {"a", "b0", "b1", "b2", "b3", "b4"}
            finally:
                await slow.aclose()
