"""Proto source is right when protoc makes the same descriptors of it again."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FieldOptions, FileDescriptorProto

from pymicro.rpc.schema import Schema, SymbolNotFound, Symbols, file_text, symbol_text
from pymicro.rpc.schema.symbols import json_name
from tests.described import compile_protos

PROTOS = Path(__file__).parent / "protos"
NAMES = [f"text/v1/{name}.proto" for name in ("bare", "edition", "new", "old", "options")]


@functools.cache
def parsed(folder: Path, comments: bool) -> tuple[dict[str, FileDescriptorProto], Schema, Symbols]:
    files = compile_protos(PROTOS, folder / f"set-{comments}.pb", NAMES, comments=comments)
    schema = Schema()
    schema.add(files.values())
    return files, schema, Symbols(schema.files())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


@pytest.fixture
def symbols(folder: Path) -> Symbols:
    return parsed(folder, True)[2]


def comments_of(file: FileDescriptorProto) -> dict[tuple[int, ...], tuple[str, str, tuple[str, ...]]]:
    found = {
        tuple(place.path): (
            place.leading_comments,
            place.trailing_comments,
            tuple(place.leading_detached_comments),
        )
        for place in file.source_code_info.location
    }
    return {path: comments for path, comments in found.items() if any(comments)}


def shown(symbols: Symbols, name: str) -> list[str]:
    return symbol_text(symbols.find(name), symbols).splitlines()


@pytest.mark.parametrize("comments", [True, False])
def test_protoc_makes_the_same_descriptors_and_comments_of_what_is_printed(
    folder: Path, tmp_path: Path, comments: bool
) -> None:
    files, schema, symbols = parsed(folder, comments)
    for file in schema.files():
        if file.name in NAMES:
            path = tmp_path / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file_text(file, symbols))
    again = compile_protos(tmp_path, tmp_path / "again.pb", NAMES, comments=comments)
    for name in NAMES:
        before, after = files[name], again[name]
        assert comments_of(after) == comments_of(before)
        assert bool(comments_of(before)) is (comments and name in ("text/v1/new.proto", "text/v1/old.proto"))
        plain = []
        for file in (before, after):
            copy = FileDescriptorProto()
            copy.CopyFrom(file)
            copy.ClearField("source_code_info")
            plain.append(str(copy))
        assert plain[1] == plain[0]


def test_a_file_without_comments_reads_as_one_would_write_it(folder: Path) -> None:
    _, schema, symbols = parsed(folder, False)
    (bare,) = (file for file in schema.files() if file.name.endswith("bare.proto"))
    assert file_text(bare, symbols) == (
        'syntax = "proto3";\n'
        "\n"
        "service Plain {\n"
        "  rpc Go(Bare) returns (Bare.Inner);\n"
        "}\n"
        "\n"
        "message Bare {\n"
        "  Inner inner = 1;\n"
        "\n"
        "  message Inner {}\n"
        "}\n"
    )


def test_a_symbol_is_printed_with_its_comments(symbols: Symbols) -> None:
    assert shown(symbols, "Reader.Get") == [
        "// Gets one.",
        "rpc Get(.text.v1.Page) returns (.text.v1.Page);",
    ]
    assert shown(symbols, "text.v1.Page.name")[-2:] == ["// The name.", "string name = 1;  // trailing it"]
    assert shown(symbols, "Page.choice") == [
        "oneof choice {",
        "  option (text.options.oneof_level) = LEVEL_HIGH;",
        "",
        "  // One.",
        "  string one = 7;",
        "  Outer two = 8 [(text.options.hidden) = true];",
        "}",
    ]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("Outer.Inner", "message Inner {"),
        ("text.v1.Kind", "enum Kind {"),
        ("text.v1.KIND_ZERO", 'KIND_ZERO = 0 [deprecated = true, (text.options.label) = "zero"];'),
        ("/Reader/Chat", "rpc Chat(stream Outer) returns (stream Outer);"),
        ("Form.line", "repeated group Line = 8 {"),
        ("Form.name", 'required string name = 1 [default = "a\\"b\\n\\001"];'),
        ("text.old.v1.note", "extend Form {"),
        ("Page.inner", "map<string, Outer.Inner> inner = 5;"),
        ("Page.kind", "optional Kind kind = 9;"),
        ("Nothing", "service Nothing {}"),
    ],
)
def test_symbols_of_every_kind_are_found(symbols: Symbols, name: str, first: str) -> None:
    assert shown(symbols, name)[0] == first


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Readr", "there is no symbol 'Readr'; did you mean text.v1.Reader?"),
        ("reader/get", "there is no symbol 'reader/get'; did you mean text.v1.Reader.Get?"),
        ("Inner", "'Inner' may be each of Bare.Inner, text.edition.v1.Item.Inner, text.v1.Outer.Inner, "),
        ("name", "there is no symbol 'name'; there are:\n  Bare\n  Plain\n"),
        ("", "there is no symbol ''; there are:\n"),
    ],
)
def test_what_is_no_symbol_is_told_with_what_there_is(symbols: Symbols, name: str, words: str) -> None:
    with pytest.raises(SymbolNotFound) as caught:
        symbols.find(name)
    assert str(caught.value).startswith(words)
    assert "google.protobuf" not in str(caught.value)


def test_an_option_whose_definition_is_missing_is_a_comment() -> None:
    # What an extension looks like to a class that does not know it.
    options = FieldOptions.FromString(b"\x8a\xb5\x18\x01x")
    options.deprecated = True
    file = FileDescriptorProto(name="a.proto", package="a", syntax="proto3")
    field = file.message_type.add(name="M").field.add(name="x", number=1, type=9, label=1)
    field.options.CopyFrom(options)
    schema = Schema()
    schema.add([file])
    symbols = Symbols(schema.files())
    assert shown(symbols, "M") == [
        "message M {",
        "  // option 50001 is set, and its definition not known",
        "  string x = 1 [deprecated = true];",
        "}",
    ]


def test_types_that_nobody_described_keep_their_names() -> None:
    file = FileDescriptorProto(name="a.proto", package="a", syntax="proto3")
    message = file.message_type.add(name="M")
    message.field.add(name="x", number=1, type=11, label=1, type_name=".b.Gone")
    message.field.add(name="y", number=2, type=11, label=3, type_name="written.So")
    symbols = Symbols([file])
    assert shown(symbols, "M")[1:3] == ["  .b.Gone x = 1;", "  repeated written.So y = 2;"]


@pytest.mark.parametrize(
    ("name", "json"), [("a", "a"), ("a_b", "aB"), ("a_b__c_", "aBC"), ("_a", "A"), ("aB_1c", "aB1c")]
)
def test_the_usual_json_name_is_protocs(name: str, json: str) -> None:
    assert json_name(name) == json
