"""Servers that refuse, are overloaded or away, for a while or for good.

Each test is named after its fault; docs/faults.md says where it was seen.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from pathlib import Path

import pytest

from pymicro.kubernetes.api.timing import ReflectorTiming
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.pods import pod
from tests.kubernetes.api.reflecting import Time, least, lists, reflecting


async def test_429_storm() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        moment = Time()
        # No jitter, so what is waited for is what the server asked for.
        async with reflecting(
            api, moment=moment, timing=ReflectorTiming(gather=0.005), uniform=least
        ) as seen:
            await seen.shows("a")
            storm = api.refuse(429, verb="watch", retry_after=7)
            start = moment.now
            api.close_watches()
            await api.until(lambda: storm.given >= 10, "ten refusals")
            storm.end()
            # Seven seconds each.
            assert moment.now - start >= 9 * 7.0
            api.create(pod("b"))
            await seen.shows("a", "b")
            # "Too many" is answered with less, not with everything from the beginning.
            assert lists(api) == 1


async def test_429_from_the_start() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        moment = Time()
        storm = api.refuse(429, times=12, retry_after=7)
        start = moment.now
        async with reflecting(
            api, moment=moment, timing=ReflectorTiming(gather=0.005), uniform=least
        ) as seen:
            await seen.shows("a")
            assert storm.given == 12
            # A streaming list and the pages instead of it may be asked for in one go.
            assert moment.now - start >= 5 * 7.0


async def test_500s_for_an_hour_while_the_last_pods_stay() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        moment = Time()
        async with reflecting(api, moment=moment, timing=ReflectorTiming(gather=0.005)) as seen:
            await seen.shows("a")
            storm = api.refuse(500)
            start, asked = moment.now, len(api.requests)
            api.close_watches()
            await api.until(lambda: moment.now - start >= 3600.0, "an hour of 500s", within=30.0)
            assert seen.names == {"a"}
            assert seen.failures
            assert seen.reflector.state.failure is not None
            assert seen.reflector.state.objects == 1
            # Full jitter up to 30 s is 15 s on average: some 240 tries, each of one or two requests.
            assert 100 < len(api.requests) - asked < 700
            storm.end()
            api.create(pod("b"))
            back = moment.now
            await seen.shows("a", "b")
            assert moment.now - back <= 30.0
            assert seen.reflector.state.failure is None


async def test_server_down_two_minutes_then_up() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        moment = Time()
        async with reflecting(api, moment=moment, timing=ReflectorTiming(gather=0.005)) as seen:
            await seen.shows("a")
            start = moment.now
            await api.stop()
            await seen.fails()
            await seen.until(lambda: moment.now - start >= 120.0, "two minutes")
            assert seen.names == {"a"}
            api.delete("a")
            api.create(pod("b"))
            await api.start()
            back = moment.now
            await seen.shows("b")
            # The bar: 65 s at worst.
            assert moment.now - back <= 65.0


async def test_401_after_token_rotation(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")
    async with FakeKubeApi(tokens={"old": "reader"}) as api:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": api.url}}],
            "users": [{"name": "reader", "user": {"tokenFile": str(token)}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "reader"}}],
        }
        (tmp_path / "config").write_text(json.dumps(config))
        api.create(pod("a"))
        async with reflecting(api, address=f"kubeconfig={tmp_path / 'config'}") as seen:
            await seen.shows("a")
            token.write_text("new\n")
            api.tokens = {"new": "reader"}
            api.close_watches()
            api.create(pod("b"))
            await seen.shows("a", "b")
            assert seen.failures == [], "one 401, and then the new token"
            assert api.requests[-1].token == "new"  # noqa: S105, RUF100
            assert lists(api) == 1


async def test_403_in_mid_life(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pymicro")
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        async with reflecting(api) as seen:
            await seen.shows("a")
            api.forbid("watch")
            api.close_watches()
            api.create(pod("b"))
            failure = await seen.fails(403)
            text = str(failure)
            assert "watch" in text
            assert "pods" in text
            assert "default" in text
            assert 'verbs: ["' in text, "the RBAC rule to add"
            assert seen.names == {"a"}
            assert any(record.levelno >= logging.WARNING for record in caplog.records)
            loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
            await api.until(lambda: sum(one.status == 403 for one in api.requests) >= 5, "five refusals")
            assert (
                len([record for record in caplog.records if record.levelno >= logging.WARNING])
                <= len(loud) + 1
            ), "said once, not at each try"
            api.allow("watch")
            await seen.shows("a", "b")


async def test_a_thousand_clients_restarting_at_once() -> None:
    # As many as a test can run; each is a process of its own to the others.
    async with FakeKubeApi() as api:
        await api.stop()
        moments = [Time() for _ in range(20)]
        async with asyncio.TaskGroup() as group:

            async def one(number: int) -> None:
                async with reflecting(
                    api,
                    moment=moments[number],
                    timing=ReflectorTiming(),
                    uniform=random.Random(number).uniform,
                ) as seen:
                    await seen.until(lambda: len(moments[number].pauses) >= 6, "six tries")

            for number in range(20):
                group.create_task(one(number))
        for round_ in range(6):
            pauses = sorted(moment.pauses[round_] for moment in moments)
            ceiling = min(0.8 * 2**round_, 30.0)
            assert pauses[-1] <= ceiling
            # Full jitter: spread over the whole of it, and no two together.
            assert pauses[-1] - pauses[0] > ceiling / 2
            assert len(set(pauses)) == len(pauses)


async def test_a_clock_jump() -> None:
    async with FakeKubeApi() as api:
        api.create(pod("a"))
        moment = Time()
        async with reflecting(api, moment=moment, timing=ReflectorTiming(gather=0.005)) as seen:
            await seen.shows("a")
            for jump, name in ((7200.0, "b"), (-7200.0, "c")):
                # A laptop that slept, a virtual machine that was moved.
                moment.now += jump
                api.create(pod(name))
                await seen.has(name)
            assert seen.names == {"a", "b", "c"}
            assert seen.failures == []
