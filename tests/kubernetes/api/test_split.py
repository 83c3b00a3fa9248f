"""One collection for several users: each sees its part, and nothing of what befalls the others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from typing import Any

import pytest

from pymicro.base.tasks import Tasks
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.query import ObjectQuery
from pymicro.kubernetes.api.reflector import Reflector
from pymicro.kubernetes.api.resource import PODS
from pymicro.kubernetes.api.split import Part, Split, SplitTable
from tests.fakes.kube_api import FakeKubeApi, StreamingList
from tests.fakes.pods import pod
from tests.kubernetes.api.reflecting import QUICK, Time


def marks(found: Mapping[str, Any]) -> Iterable[str]:
    return list(found["metadata"]["labels"])


def parse(found: Mapping[str, Any]) -> str:
    if "bad" in found["metadata"]:
        raise ValueError(found["metadata"]["bad"])
    return str(found["metadata"]["name"])


def fussy(found: Mapping[str, Any]) -> str:
    raise RecursionError("nobody thought of it")


SPLIT = Split(marks, frozenset([Part("one", "a", parse), Part("two", "b", parse), Part("twin", "a", parse)]))


def found(uid: str, *labels: str, **more: str) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "name": uid, "labels": dict.fromkeys(labels, ""), **more}}


@pytest.fixture
def table() -> SplitTable[str]:
    return SplitTable(SPLIT, "pods")


def test_an_object_is_with_everybody_whose_mark_it_bears(table: SplitTable[str]) -> None:
    assert table.put(found("1", "a", "b", "c"))
    assert table.put(found("2", "b"))
    assert not table.put(found("3", "c"))
    assert table.objects("one") == table.objects("twin") == {"1": "1"}
    assert table.objects("two") == {"1": "1", "2": "2"}
    assert table.changed == {"one", "two", "twin"}
    assert table.count == 4


def test_an_object_that_loses_a_mark_leaves_and_stays_with_the_others(table: SplitTable[str]) -> None:
    table.put(found("1", "a", "b"))
    table.changed.clear()
    assert table.put(found("1", "b"))
    assert table.changed == {"one", "twin"}
    assert (table.objects("one"), table.objects("two")) == ({}, {"1": "1"})
    assert not table.put(found("1", "b"))
    # What is deleted shows what marks it likes.
    assert table.drop(found("1", "a"))
    assert table.objects("two") == {}
    assert not table.drop(found("1", "a"))


@pytest.mark.parametrize("labels", [None, 3, [["x"]]])
def test_an_object_that_cannot_be_sorted_is_nobodys(table: SplitTable[str], labels: Any) -> None:
    table.put(found("1", "a"))
    assert table.put({"metadata": {"uid": "1", "labels": labels}})
    assert table.objects("one") == {}


def test_what_one_cannot_read_the_other_reads(caplog: pytest.LogCaptureFixture) -> None:
    parts = [Part("one", "a", parse), Part("odd", "a", fussy)]
    table: SplitTable[str] = SplitTable(Split(marks, frozenset(parts)), "pods")
    table.put(found("1", "a"))
    assert (table.objects("one"), table.objects("odd")) == ({"1": "1"}, {})
    assert table.skipped == 1
    assert "pods (odd): None/1 is skipped" in caplog.text


def test_the_complaints_of_one_do_not_silence_those_of_another(
    table: SplitTable[str], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(300):
        table.put(found(f"flood-{number}", "a", bad="x"))
    table.put(found("1", "b", bad="y"))
    assert caplog.records[-1].message == "pods (two): None/1 is skipped: y"
    # A new list does not begin the complaints anew.
    count = len(caplog.records)
    table = table.successor()
    table.put(found("1", "b", bad="y"))
    table.complete()
    assert len(caplog.records) == count
    assert table.skipped == 1


def test_equal_splits_are_interchangeable() -> None:
    again = Split(
        marks, frozenset([Part("twin", "a", parse), Part("two", "b", parse), Part("one", "a", parse)])
    )
    assert again == SPLIT
    assert hash(SPLIT) == hash(again)
    assert Split(marks, frozenset([Part("one", "a", parse)])) != SPLIT
    assert Split.whole(parse) == Split.whole(parse) != Split.whole(fussy)


async def test_a_follower_is_told_of_its_own_part_and_all_when_it_is_confirmed() -> None:
    seen: dict[str, list[set[str]]] = {"one": [], "two": []}
    async with (
        FakeKubeApi() as api,
        KubeClient(lambda: find_cluster([api.url])) as client,
        Tasks("followers") as tasks,
    ):
        api.create(pod("a", labels={"a": ""}))
        api.create(pod("b", labels={"b": ""}))
        reflector = Reflector(client, ObjectQuery(PODS, "default"), SPLIT, timing=QUICK)

        async def follow(part: str) -> None:
            async with aclosing(reflector.follow(part)) as mappings:
                async for mapping in mappings:
                    seen[part].append(set(mapping.values()))
                    api._noticed()

        tasks.start(reflector.run(), "run")
        for part in seen:
            tasks.start(follow(part), part)
        await api.until(lambda: bool(seen["one"] and seen["two"]), "both see")
        await api.watched()
        api.create(pod("more", labels={"a": ""}))
        await api.until(lambda: {"a", "more"} in seen["one"], "the one sees it")
        assert seen["two"] == [{"b"}]
        api.bookmark()
        await api.until(lambda: len(seen["two"]) > 1, "the other is confirmed")
        assert seen["two"][1:] == [{"b"}]


@pytest.mark.parametrize("lists", ["yes", "refused"])
async def test_a_list_that_takes_too_long_has_failed_and_one_that_gets_no_answer_has_not(
    lists: StreamingList,
) -> None:
    moment = Time()

    def slowly(one: Mapping[str, Any]) -> str:
        moment.now += 1.0
        return str(one["metadata"]["name"])

    async with (
        FakeKubeApi(streaming_list=lists) as api,
        KubeClient(lambda: find_cluster([api.url])) as client,
    ):
        for number in range(10):
            api.create(pod(f"pod-{number}"))

        async def kind(limit: float) -> str:
            query = ObjectQuery(PODS, "default")
            reflector = Reflector(
                client, query, slowly, timing=QUICK, list_limit=limit, clock=moment.clock, sleep=moment.sleep
            )
            async with Tasks("reflector") as tasks, asyncio.timeout(5):
                tasks.start(reflector.run(), "run")
                try:
                    async for _ in reflector.follow():
                        return ""
                except KubeError as exc:
                    return exc.kind
            raise AssertionError("it ended")

        assert await kind(5.0) == "slow"
        assert await kind(50.0) == ""
        await api.stop()
        assert await kind(0.0) == "connection"
