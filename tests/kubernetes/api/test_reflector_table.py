"""The objects by uid, and what is said of those that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pymicro.kubernetes.api.table import Table, version_of


def found(uid: str, text: str = "", *, name: str = "x") -> dict[str, Any]:
    return {"metadata": {"uid": uid, "namespace": "shop", "name": name}, "text": text}


def parse(one: Mapping[str, Any]) -> str:
    if one["text"].startswith("bad"):
        raise ValueError(one["text"])
    return str(one["text"])


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


@pytest.fixture
def table() -> Table[str]:
    return Table(parse, "pods")


def test_the_same_complaint_is_made_once_through_any_number_of_lists(
    table: Table[str], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        table.put(found("1", "bad"))
        table = table.successor()
        table.put(found("1", "bad"))
        table.complete()
    assert said(caplog) == ["pods: shop/x is skipped: bad"]
    table.put(found("1", "bad in another way"))
    table.put(found("2", "bad"))
    assert len(caplog.records) == 3
    assert table.skipped == 2


def test_an_object_that_was_gone_is_complained_of_anew(
    table: Table[str], caplog: pytest.LogCaptureFixture
) -> None:
    table.put(found("1", "bad"))
    table = table.successor()
    table.complete()
    assert table.skipped == 0
    table.put(found("1", "bad"))
    assert len(caplog.records) == 2
    table.drop(found("1"))
    assert table.skipped == 0
    table.put(found("1", "bad"))
    assert len(caplog.records) == 3


def test_whoever_writes_nonsense_over_and_over_does_not_fill_the_log(
    table: Table[str], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        table.put(found("1", f"bad {number}"))
    # A new list is no reason to say more.
    table = table.successor()
    table.put(found("1", "bad again"))
    assert len(caplog.records) == 20
    assert said(caplog)[-1] == "pods: more objects are skipped, and not named for a while"


def test_a_complaint_is_one_line_of_bounded_length(
    table: Table[str], caplog: pytest.LogCaptureFixture
) -> None:
    table.put(found("1", "bad\nERROR: all is lost" + "!" * 10_000, name="x\ny"))
    (line,) = said(caplog)
    assert line.isprintable()
    assert len(line) < 500


@pytest.mark.parametrize(
    "odd", [{}, {"metadata": None}, {"metadata": []}, {"metadata": {"uid": 7}}, {"metadata": {"uid": ""}}]
)
def test_an_object_without_uid_is_skipped(table: Table[str], odd: dict[str, Any]) -> None:
    table.put(found("1", "good"))
    assert not table.put(odd)
    assert not table.drop(odd)
    assert (table.objects, table.skipped) == ({"1": "good"}, 1)
    assert version_of(odd) == ""


def test_objects_of_one_name_with_two_uids_are_two(table: Table[str]) -> None:
    assert table.put(found("1", "old"))
    assert table.put(found("2", "new"))
    assert table.drop(found("1", "old"))
    assert table.objects == {"2": "new"}
    assert not table.drop(found("1", "old"))
