"""What foreign text may do to a terminal: nothing."""

from __future__ import annotations

import json
import shlex
import unicodedata

import pytest

from pymicro.base.printable import as_argument, escaped_json, printable

UNSEEN = [
    "\x00", "\x1b", "\r", "\x7f", "\x9b", "\xad", "\u061c", "\u200b", "\u200d", "\u200e", "\u2028", "\u202e",
    "\u2060", "\u2066", "\u2069", "\ufeff", "\ud800", "\U000e0041",
]  # fmt: skip


@pytest.mark.parametrize("char", UNSEEN)
def test_what_nobody_sees_is_escaped(char: str) -> None:
    shown = printable(f"a{char}b")
    assert shown.isascii()
    assert shown.isprintable()
    assert shown[0] + shown[-1] == "ab"


@pytest.mark.parametrize("char", UNSEEN)
def test_a_document_means_the_same_afterwards(char: str) -> None:
    shown = escaped_json(json.dumps({f"a{char}": f"b{char}ß"}, ensure_ascii=False))
    assert json.loads(shown) == {f"a{char}": f"b{char}ß"}
    assert shown.isprintable()


def test_nothing_turns_the_direction_of_text_around() -> None:
    turning = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    chars = [chr(code) for code in range(0x110000) if unicodedata.bidirectional(chr(code)) in turning]
    assert len(chars) == len(turning)
    assert not [char for char in chars if printable(char) == char]


@pytest.mark.parametrize("text", ["größe 中文", "🦊", "a\tb\nc", "e\u0301"])
def test_text_that_people_read_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("text", ["x;touch y", "$(reboot)", "`id`", "a b", "it's", "-rf", "größe"])
def test_an_argument_is_one_word_of_the_shell(text: str) -> None:
    assert shlex.split(as_argument(text)) == [text]


@pytest.mark.parametrize("text", ["a\nreboot", "a\u202eb", "\x1b[2J"])
def test_what_cannot_be_seen_is_no_command(text: str) -> None:
    assert as_argument(text) == ""
