from __future__ import annotations

import pytest

from pymicro.rpc.schema import Document, Documents


def cut(*chunks: str) -> list[str]:
    documents = Documents()
    found = [document for chunk in chunks for document in documents.feed(chunk)]
    return [document.text for document in (*found, *documents.finish())]


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ('{"a": 1}\n{"b": 2}\n', ['{"a": 1}', '{"b": 2}']),
        ('{"a": 1}{"b": 2} {"c": 3}', ['{"a": 1}', '{"b": 2}', '{"c": 3}']),
        ('{\n  "a": [1, {"b": "}"}]\n}\n{}', ['{\n  "a": [1, {"b": "}"}]\n}', "{}"]),
        (r'{"a": "\"}\\"} []', [r'{"a": "\"}\\"}', "[]"]),
        ('"one" "two\\"" 3 true', ['"one"', '"two\\""', "3", "true"]),
        ("", []),
        (" \n\t\r\n", []),
        ("\ufeff{}", ["{}"]),
        ('{"a": ', ['{"a":']),
        ("}{}", ["}", "{}"]),
        ("1 2\n3", ["1", "2", "3"]),
    ],
)
def test_text_is_cut_at_the_ends_of_documents_whatever_its_chunks(text: str, documents: list[str]) -> None:
    expected = [document.strip() for document in documents]
    assert [found.strip() for found in cut(text)] == expected
    assert [found.strip() for found in cut(*text)] == expected  # a character at a time
    for at in range(len(text)):
        assert [found.strip() for found in cut(text[:at], text[at:])] == expected


def test_a_document_is_given_at_its_last_character() -> None:
    documents = Documents()
    assert documents.feed('{"a": {}') == []
    assert [document.text for document in documents.feed("}")] == ['{"a": {}}']
    assert documents.feed("1") == []  # more digits may come
    assert [document.text for document in documents.feed(" ")] == ["1"]
    assert documents.finish() == []


def test_each_document_knows_its_line_and_column() -> None:
    documents = Documents()
    found = documents.feed('{"a":\n1}\n\n  {"b": 2} {}')
    assert found == [Document('{"a":\n1}', 1, 1), Document('{"b": 2}', 4, 3), Document("{}", 4, 12)]


def test_a_big_document_in_many_chunks_takes_no_second_look() -> None:
    # Scanning anew from the start at each chunk would take minutes.
    documents = Documents()
    chunk = '"' + "x" * 1000 + '",'
    assert documents.feed("[") == []
    for _ in range(2000):
        assert documents.feed(chunk) == []
    (document,) = documents.feed("0]")
    assert len(document.text) == 2000 * len(chunk) + 3
