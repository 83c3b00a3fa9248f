"""Streams as lines, whatever the pieces they come in; lists object by object."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.events import is_older, read_event
from pymicro.kubernetes.api.lines import Lines
from pymicro.kubernetes.api.pages import Page


def lines(chunks: Iterable[bytes], *, longest: int = 1000, idle_timeout: float = 5.0) -> Lines:
    left = iter(chunks)

    async def read() -> bytes:
        return next(left, b"")

    return Lines(read, what="watch pods", idle_timeout=idle_timeout, longest=longest)


async def test_lines_come_whole_however_they_are_cut() -> None:
    text = '{"name":"Zoë"}\n\n{"name":"日本"}\n{"a":1}\n'.encode()
    expected = [line for line in text.split(b"\n") if line]
    for size in range(1, len(text) + 1):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert [line async for line in lines(pieces)] == expected


async def test_what_ends_within_a_line_is_cut_and_the_rest_is_no_line() -> None:
    stream = lines([b'{"a":1}\n{"b":'])
    assert await anext(stream) == b'{"a":1}'
    with pytest.raises(KubeError, match="watch pods: it ended in the middle of a line") as caught:
        await anext(stream)
    assert (caught.value.status, caught.value.kind) == (0, "cut")


async def test_a_long_line_is_put_together_and_a_longer_one_is_refused_before_it_is_whole() -> None:
    assert await anext(lines([b"x" * 300] * 3 + [b"\n"])) == b"x" * 900
    fed = 0

    def endless() -> Iterable[bytes]:
        nonlocal fed
        while True:
            fed += 300
            yield b"x" * 300

    with pytest.raises(KubeError, match="longer than 1000 bytes"):
        await anext(lines(endless()))
    assert fed == 1200


async def test_a_line_of_two_megabytes_is_no_trouble() -> None:
    line = b"x" * (2 << 20)
    pieces = [(line + b"\n")[at : at + 65536] for at in range(0, len(line) + 1, 65536)]
    stream = Lines(lines(pieces)._read, what="watch pods", idle_timeout=5)
    assert [len(found) async for found in stream] == [2 << 20]


async def test_silence_ends_the_stream_whatever_the_connection_says() -> None:
    async def never() -> bytes:
        await asyncio.Event().wait()
        return b""

    stream = Lines(never, what="watch pods", idle_timeout=5)
    stream.idle_timeout = 0.02
    with pytest.raises(KubeError, match=r"watch pods: not a byte came in 0\.02 s") as caught:
        await anext(stream)
    assert caught.value.kind == "idle"


LISTS: list[Any] = [
    {
        "kind": "PodList",
        "metadata": {"resourceVersion": "7", "continue": "x"},
        "items": [{"a": 1}, {"b": [2]}],
    },
    {"items": [], "metadata": {"resourceVersion": "7"}},
    {"items": [{"a": "}],"}], "metadata": {"resourceVersion": "7"}, "kind": "L"},
    {"items": None, "metadata": {"resourceVersion": "7"}},
    {"metadata": None},
    {},
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("document", LISTS)
def test_a_page_read_piece_by_piece_says_what_it_says_at_once(document: Any, indent: int | None) -> None:
    page = Page(json.dumps(document, indent=indent).encode() + b"\n")
    assert list(page.objects()) == (document.get("items") or [])
    metadata = document.get("metadata") or {}
    assert page.resource_version == metadata.get("resourceVersion", "")
    assert page.proceed == metadata.get("continue", "")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"items":',
        b'{"items":[',
        b'{"items":[{}',
        b'{"items":[{},',
        b'{"items":[{}]',
        b'{"items":[{}],',
        b'{"items":[{}]} {}',
        b'{"items":[{}] "a":1}',
        b'{"items" [{}]}',
        b'{"items":[{} {}]}',
        b'{"a":1,}',
        b"\xff",
    ],
)
def test_what_is_no_list_is_an_error_and_no_shorter_list(body: bytes) -> None:
    with pytest.raises(ValueError):
        list(Page(body).objects())


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b"7",
        b"{",
        b'{"type":"ADDED"}',
        b'{"type":"ADDED","object":[]}',
        b'{"type":1,"object":{}}',
        b'{"type":"\xff","object":{}}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_no_event_is_an_error(line: bytes) -> None:
    with pytest.raises(KubeError) as caught:
        read_event(line)
    assert caught.value.kind == "malformed"


def test_versions_are_compared_as_numbers_where_they_are_numbers() -> None:
    assert is_older("9", "10")
    assert not is_older("10", "9")
    assert not is_older("10", "10")
    assert not is_older("abc", "10")
    assert not is_older("", "10")
    assert not is_older("٣", "10")
    assert not is_older("1" * 5000, "10")
