"""gRPC's forms on the wire."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest

from pymicro_fast import wire


def test_metadata_there_and_back() -> None:
    metadata = (("a", "b c"), ("data-bin", b"\x00\xff,"), ("data-bin", b""), ("late", b"bytes that are text"))
    pairs = wire.pairs_of(metadata)
    assert pairs == [
        (b"a", b"b c"),
        (b"data-bin", b"AP8s"),
        (b"data-bin", b""),
        (b"late", b"bytes that are text"),
    ]
    assert wire.read_pairs([("a", "b c"), ("data-bin", b"AP8s")]) == (
        ("a", "b c"),
        ("data-bin", b"\x00\xff,"),
    )


@pytest.mark.parametrize(("value", "read"), [(b"AAE", b"\0\1"), (b"AAE=", b"\0\1"), (b"", b"")])
def test_binary_metadata_with_and_without_padding(value: bytes, read: bytes) -> None:
    assert wire.read_pairs([("x-bin", value)]) == (("x-bin", read),)


def test_binary_values_that_were_joined() -> None:
    assert wire.read_pairs([("x-bin", b"AA, AQ==")]) == (("x-bin", b"\0"), ("x-bin", b"\1"))


@pytest.mark.parametrize("value", [b"A", b"!!!!", b"AA=A", b"\xff"])
def test_binary_metadata_that_is_none_names_its_key(value: bytes) -> None:
    with pytest.raises(ValueError, match="x-bin"):
        wire.read_pairs([("x-bin", value)])


@pytest.mark.parametrize(
    "text", ["", "plain", "100 % of it", "line\nbreak", "Grüße 😀", "\x7f\x00", "\ud800"]
)
def test_status_texts_there_and_back(text: str) -> None:
    data = wire.text_of(text)
    assert all(0x20 <= byte <= 0x7E for byte in data)
    assert wire.read_text(data) == text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    ("data", "text"), [(b"50%", "50%"), (b"%zz%41", "%zzA"), (b"%+1", "%+1"), (None, ""), (b"%ff", "\ufffd")]
)
def test_a_malformed_status_text_is_shown_as_it_is(data: bytes | None, text: str) -> None:
    assert wire.read_text(data) == text


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_messages_there_and_back(encoding: bytes, size: int) -> None:
    message = random.Random(1).randbytes(size)
    assert wire.decompress(encoding, wire.compress(encoding, message), size) == message


def test_a_message_is_unpacked_to_its_limit_and_no_further() -> None:
    with pytest.raises(wire.TooLarge):
        wire.decompress(b"gzip", gzip.compress(bytes(10 << 20)), 1 << 20)


@pytest.mark.parametrize(
    "data",
    [
        b"no zip",
        gzip.compress(b"whole")[:-9],
        gzip.compress(b"whole") + gzip.compress(b"another"),
        zlib.compress(b"the other form"),
    ],
    ids=["text", "broken off", "two", "the other form"],  # gzip's has the time in it
)
def test_a_damaged_message_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be decompressed"):
        wire.decompress(b"gzip", data, 100)


def test_a_message_of_no_bytes_is_an_empty_one() -> None:
    assert wire.decompress(b"gzip", b"", 100) == b""


def test_an_unknown_encoding_is_named() -> None:
    with pytest.raises(LookupError, match="zstd"):
        wire.decompress(b"zstd", b"", 100)
