"""What foreign text may do to a terminal: nothing."""

from __future__ import annotations

import ast
import json
import shlex
import unicodedata
from collections.abc import Iterator

import pytest

from pymicro.base.printable import (
    as_argument,
    escaped_json,
    excerpt,
    listed,
    printable,
    shortened,
    without_user,
)
from tests.processes import ROOT

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


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def nested(depth: int) -> list[object]:
    found: list[object] = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\tb", r"'a\tb'"),
        (None, "None"),
        (b"\xff", r"b'\xff'"),
        ("x" * 198, "'" + "x" * 198 + "'"),
        ("x" * 5000, "'" + "x" * 199 + "…"),
        (["x"] * 5000, "[" + "'x', " * 20 + "...]"),
        ({"a": [1, {"b": None}]}, "{'a': [1, {'b': None}]}"),
        (10**6000, "something of type int that cannot be shown"),
        (nested(100_000), "[[[[[...]]]]]"),
        (Odd(), "something of type Odd that cannot be shown"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_quoted_by_its_beginning(value: object, shown: str) -> None:
    found = excerpt(value)
    assert found.startswith(shown)
    assert len(found) <= 201


def test_how_much_is_shown_can_be_said() -> None:
    assert excerpt("abcdef", 4) == "'abc…"
    assert shortened("abcdef", 4) == "abcd…"
    assert shortened("abcd", 4) == "abcd"


def test_names_in_a_row_end_somewhere() -> None:
    assert listed([]) == ""
    assert listed({"a": 1, "b": 2}) == "a, b"
    assert listed("abcd", 2) == "a, b and 2 more"
    assert listed(["x" * 5000]) == "x" * 200 + "…"


def quotes(tree: ast.AST) -> Iterator[ast.expr]:
    """Where a text gets what Python makes of a value, of whatever length; `__repr__` itself may."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__repr__":
            continue
        if isinstance(node, ast.FormattedValue):
            called = node.value.func if isinstance(node.value, ast.Call) else None
            if node.conversion in map(ord, "ra") or (isinstance(called, ast.Name) and called.id == "repr"):
                yield node
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "%r" in node.value:
            yield node
        yield from quotes(node)


def test_no_message_quotes_what_may_be_a_page_long() -> None:
    # What a test says of a plug-in, and Python code that is written, are no messages to people in trouble.
    other = (ROOT / "pymicro/testing", ROOT / "pymicro/cli/gen_mend.py")
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "pymicro").rglob("*.py"))
        if not any(path.is_relative_to(one) for one in other)
        for node in quotes(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "quote these by pymicro.base.printable.excerpt"


@pytest.mark.parametrize(
    "code",
    [
        'raise ValueError(f"{text!r} is no port")',
        'raise ValueError(f"{text[:80]!r} is no port")',
        'log.warning("%r is no port", text)',
        'f"{repr(text)}"',
        'def f():\n    return f"{text!a}"',
    ],
)
def test_such_a_message_is_found(code: str) -> None:
    assert len(list(quotes(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code", ['f"{excerpt(text)}"', 'class A:\n    def __repr__(self):\n        return f"<A {self.x!r}>"']
)
def test_others_are_none(code: str) -> None:
    assert not list(quotes(ast.parse(code)))


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("10.0.0.1:2379", "10.0.0.1:2379"),
        ("http://10.0.0.1:2379", "http://10.0.0.1:2379"),
        ("root:secret@etcd:2379", "…@etcd:2379"),
        ("https://root:secret@etcd:2379", "https://…@etcd:2379"),
        ("https://root:sec/r@t@etcd:2379", "https://…@etcd:2379"),
        ("/var/lib/registry@2/nodes", "/var/lib/registry@2/nodes"),
    ],
)
def test_an_address_is_shown_without_user_and_password(address: str, shown: str) -> None:
    assert without_user(address) == shown
