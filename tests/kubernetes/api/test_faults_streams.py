"""Connections that break, stand still or bring something odd.

Each test is named after its fault; docs/faults.md says where it was seen.
"""

from __future__ import annotations

import asyncio
import logging

import pytest

from pymicro.kubernetes.api.timing import ReflectorTiming
from tests.bars import CUT_WATCH, Bars
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.kube_status import status_object
from tests.fakes.pods import pod
from tests.fakes.slices import slice
from tests.kubernetes.api.reflecting import Time, lists, most, quick, reflecting


async def test_half_open_tcp_with_no_fin() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        async with reflecting(api) as seen:
            await seen.shows("a")
            api.half_open()
            api.create(pod("b"))
            await seen.shows("a", "b")
            assert lists(api) == 1
            assert seen.failures == []


async def test_live_tcp_but_a_mute_stream() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        moment = Time()
        timing = quick(idle_limit=0.4, stream_list_wait=0.3)
        async with reflecting(api, moment=moment, timing=timing) as seen:
            await seen.shows("a")
            api.mute()
            api.create(pod("b"))
            # One that is mute is left, another is made, and nobody hammers the server.
            await api.asked("watch", 4)
            assert len(api.requests) <= 8
            assert seen.names == {"a"}
            # No watch says anything, and neither would those of a quiet cluster: in half an
            # hour everything is listed again, in pages since a streaming list is mute too.
            moment.now += 2000.0
            await seen.shows("a", "b")
            api.create(pod("c"))
            api.speak()
            await seen.shows("a", "b", "c")


async def test_a_quiet_cluster_is_no_failure() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        async with reflecting(api, timing=quick(idle_limit=0.2)) as seen:
            await seen.shows("a")
            # Nothing happens, so the server has no bookmark to send; nothing is wrong with that.
            await api.until(lambda: api.count("watch") >= 6, "five times nothing")
            assert seen.failures == []
            assert seen.names == {"a"}
            api.create(pod("b"))
            await seen.shows("a", "b")


async def test_a_watch_with_nothing_but_bookmarks_is_kept() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        async with reflecting(api, timing=quick(idle_limit=1.0)) as seen:
            await seen.shows("a")
            loop = asyncio.get_running_loop()
            start, number = loop.time(), 0
            while loop.time() - start < 2.0:  # twice the limit
                number += 1
                api.create(slice(f"other-{number}"))
                await seen.hears_until_now(api)
                await asyncio.sleep(0.05)  # a minute, so to speak
            assert api.count("watch") == 1


async def test_clean_close_every_second() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        moment = Time()
        timing = ReflectorTiming(gather=0.005)
        async with reflecting(api, moment=moment, timing=timing, uniform=most) as seen:
            await seen.shows("a")
            api.greet(lambda watch: watch.end())
            api.close_watches()
            await api.until(lambda: api.count("watch") > 12, "a dozen watches")
            # Without a growing pause this would be a request a millisecond, for ever.
            waits = [pause for pause in moment.pauses if pause >= 0.8]
            assert waits[:6] == sorted(waits[:6])
            assert waits[5] >= 12.8
            assert max(waits) == 30.0
            # Though no watch lives, what is new is seen: lists take their place.
            api.create(pod("b"))
            await seen.shows("a", "b")
            api.greet(None)
            before = api.count("watch")
            await api.asked("watch", before + 1)
            api.create(pod("c"))
            await seen.shows("a", "b", "c")


async def test_a_watch_that_ends_after_a_while_is_watched_again_at_once() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        moment = Time()
        async with reflecting(api, moment=moment, timing=ReflectorTiming(gather=0.005)) as seen:
            await seen.shows("a")
            for round_ in range(5):
                await api.watched()
                # It has been up for a while, and was told of something.
                moment.now += 300.0
                api.create(pod(f"b{round_}"))
                await seen.has(f"b{round_}")
                before = api.count("watch")
                api.close_watches()
                await api.asked("watch", before + 1)
            assert lists(api) == 1
            assert seen.failures == []
            # The rest of the first second, and some chance.
            assert sum(moment.pauses) <= 5 * 1.8


async def test_a_load_balancer_that_cuts_every_watch_leaves_nobody_blind(bars: Bars) -> None:
    # An hour of it: HAProxy and nginx cut after 35 to 60 s in which nothing came.
    lived, hour = 35.0, 3600.0
    cuts = round(hour / lived)
    shares = []
    # By chance, and with the longest pause each time.
    for uniform in (None, most):
        async with FakeKubeApi() as api:
            api.create(pod("a"))
            moment = Time()
            timing = ReflectorTiming(gather=0.005, resync=1e6)
            async with reflecting(api, moment=moment, timing=timing, uniform=uniform) as seen:
                await seen.shows("a")
                for cut in range(cuts):
                    before = api.count("watch")
                    moment.now += lived
                    (api.cut_watches if cut % 2 else api.close_watches)()
                    await api.asked("watch", before + 1)
                    await seen.opens(before + 1)
                shares.append(sum(moment.pauses) / (cuts * lived + sum(moment.pauses)))
                assert seen.failures == []
                assert seen.reflector.state.lists == 1
                # The server is asked now and then whether it was ever at our version.
                assert 40 <= api.count("list") <= 60
                api.create(pod("b"))
                await seen.shows("a", "b")
    usual, longest = shares
    bars.met(CUT_WATCH, f"{usual:.2%}, at worst {longest:.2%}", longest <= 0.01)
    assert 0 < usual < longest <= 0.01


@pytest.mark.parametrize("how", ["an event", "a status", "a cut"])
async def test_a_watch_refused_in_the_same_way_again_and_again_is_replaced_by_lists(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pymicro")
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        moment = Time()
        timing = ReflectorTiming(gather=0.005)
        async with reflecting(api, moment=moment, timing=timing, uniform=most) as seen:
            await seen.shows("a")
            refusal = None
            if how == "a status":
                refusal = api.refuse(400, verb="watch")
                api.close_watches()
            elif how == "a cut":
                api.greet(lambda watch: (watch.shorten(0), watch.cut()))
                api.cut_watches()
            else:
                api.greet(lambda watch: watch.error(status_object(500, "etcdserver: no leader")))
                api.error_event(status_object(500, "etcdserver: no leader"))
            for number in range(3):
                api.create(pod(f"b{number}"))
                await seen.has(f"b{number}")
            api.delete("b1")
            await seen.shows("a", "b0", "b2")
            # At growing pauses, and told once.
            assert len(seen.failures) <= 1
            assert max(moment.pauses) > 2.0
            warnings = [one for one in caplog.records if one.levelno >= logging.WARNING]
            assert [one for one in warnings if "lists take the place" in one.message] == warnings
            assert len(warnings) <= 1
            if refusal is not None:
                refusal.end()
            api.greet(None)
            await api.watched()
            api.create(pod("c"))
            await seen.has("c")


async def test_cut_in_the_middle_of_a_json_line() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        async with reflecting(api) as seen:
            await seen.shows("a")
            for fault in (api.cut_mid_line, api.cut_watches):
                fault()
                await api.until(lambda: not any(watch.live for watch in api.watches), "the watch is gone")
                api.create(pod(f"after-{fault.__name__}"))
                await seen.has(f"after-{fault.__name__}")
            assert lists(api) == 1
            assert seen.reflector.state.skipped == 0


async def test_a_line_that_is_no_json() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        async with reflecting(api) as seen:
            await seen.shows("a")
            for line in (
                b"<html>502</html>\n",
                b"[]\n",
                b'{"type":"ADDED"}\n',
                b'{"type":"NEWS","object":{}}\n',
            ):
                api.send_line(line)
                name = f"after-{api.store.version}"
                api.create(pod(name))
                await seen.has(name)


async def test_a_2_mb_line() -> None:
    async with FakeKubeApi() as api:
        note = "x" * (2 << 20)
        api.create(pod("listed", annotations={"note": note}))
        async with reflecting(api) as seen:
            await seen.shows("listed")
            api.create(pod("watched", annotations={"note": note}))
            await seen.shows("listed", "watched")
            assert all(one.note == note for one in seen.shown[-1].values())
            assert lists(api) == 1
    async with FakeKubeApi(streaming_list="refused") as api:
        api.create(pod("listed", annotations={"note": note}))
        async with reflecting(api) as seen:
            await seen.shows("listed")


async def test_a_multi_byte_character_split_across_chunks() -> None:
    async with FakeKubeApi() as api:
        api.in_pieces(1)
        note = "größe 🦊 中文"
        api.create(pod("listed", annotations={"note": note}))
        async with reflecting(api) as seen:
            await seen.shows("listed")
            api.create(pod("watched", annotations={"note": note}))
            await seen.shows("listed", "watched")
            assert {one.note for one in seen.shown[-1].values()} == {note}
            assert lists(api) == 1


async def test_an_api_server_on_ipv6() -> None:
    async with FakeKubeApi(host="::1") as api:
        api.create(pod("a", "fd00::1"))
        async with reflecting(api) as seen:
            await seen.shows("a")
            await api.stop()
            api.create(pod("b", "fd00::2"))
            await api.start()
            await seen.shows("a", "b")


async def test_an_old_watcher_publishing_late() -> None:
    async with FakeKubeApi() as api:
        old = api.create(pod("a"))
        async with reflecting(api) as seen:
            await seen.shows("a")
            (first,) = api.watches
            api.half_open()
            api.update({**old, "metadata": {**old["metadata"], "annotations": {"note": "new"}}})
            await seen.until(lambda: [one.note for one in seen.shown[-1].values()] == ["new"])
            # The first stream cannot say anything any more: it is not there any more.
            await api.until(lambda: first not in api.watches, "the old stream is closed")
            assert len(api.watches) == 1
