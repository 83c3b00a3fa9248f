"""gRPC's forms on the wire that are not HTTP/2's own: metadata, status texts, compressed messages.

The rules are those of grpc's PROTOCOL-HTTP2.md and compression.md.
"""

from __future__ import annotations

import binascii
import re
import zlib
from collections.abc import Iterable

__all__ = ["ACCEPTED", "TooLarge", "compress", "decompress", "pairs_of", "read_pairs", "read_text", "text_of"]

# What `decompress` knows, as `grpc-accept-encoding` lists it.
ACCEPTED = b"identity, deflate, gzip"

# zlib's name for each format: a window of 32 KiB, in zlib's own form and in gzip's.
_FORMATS = {b"deflate": 15, b"gzip": 31}

_HEX = re.compile(rb"[0-9a-fA-F]{2}")
_UNSAFE = {byte: b"%%%02X" % byte for byte in range(256) if not 0x20 <= byte <= 0x7E or byte == 0x25}


class TooLarge(ValueError):
    """A message is larger than its limit once it is decompressed."""


def pairs_of(metadata: Iterable[tuple[str, str | bytes]]) -> list[tuple[bytes, bytes]]:
    """Metadata that was checked, as headers."""
    pairs = []
    for key, value in metadata:
        if key.endswith("-bin"):
            # Without padding: everybody must take it, and this is shorter.
            data = binascii.b2a_base64(value, newline=False).rstrip(b"=")  # type: ignore[arg-type]
        else:
            data = value if isinstance(value, bytes) else value.encode("latin-1")
        pairs.append((key.encode("ascii"), data))
    return pairs


def read_pairs(pairs: Iterable[tuple[str, str | bytes]]) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata in a stream's `initial` or `trailing`.

    Raises:
        ValueError: A binary value is no base64; names its key.
    """
    read: list[tuple[str, str | bytes]] = []
    for pair in pairs:
        key, value = pair
        if isinstance(value, str):
            read.append(pair)
            continue
        # Several values may be joined by commas.
        for part in value.split(b","):
            data = part.strip()
            try:
                read.append((key, binascii.a2b_base64(data + b"=" * (-len(data) % 4), strict_mode=True)))
            except binascii.Error:
                raise ValueError(f"the value of metadata {key} is no base64") from None
    return tuple(read)


def text_of(text: str) -> bytes:
    """A status's text as `grpc-message`."""
    data = text.encode("utf-8", "replace")
    if data.isalnum():
        return data
    return b"".join([_UNSAFE.get(byte) or bytes((byte,)) for byte in data])


def read_text(data: bytes | None) -> str:
    """The text in `grpc-message`; what is malformed stays as it is."""
    if not data:
        return ""
    if b"%" not in data:
        return data.decode("utf-8", "replace")
    first, *parts = data.split(b"%")
    read = [
        bytes.fromhex(part[:2].decode()) + part[2:] if _HEX.match(part) else b"%" + part for part in parts
    ]
    return b"".join([first, *read]).decode("utf-8", "replace")


def compress(encoding: bytes, data: bytes) -> bytes:
    """A message, compressed; `encoding` is `gzip` or `deflate`."""
    packer = zlib.compressobj(wbits=_FORMATS[encoding])
    return packer.compress(data) + packer.flush()


def decompress(encoding: bytes | None, data: bytes, limit: int) -> bytes:
    """A message that came compressed.

    Args:
        encoding: As `grpc-encoding` says.
        data: The message as it came.
        limit: The largest one that is made of it; no more is unpacked.

    Raises:
        LookupError: The encoding is unknown, or there is none.
        TooLarge: It is larger.
        ValueError: It is damaged.
    """
    if encoding not in _FORMATS:
        raise LookupError(encoding)
    unpacker = zlib.decompressobj(wbits=_FORMATS[encoding])
    try:
        # zlib takes 0 for no limit.
        message = unpacker.decompress(data, limit + 1)
    except zlib.error as exc:
        raise ValueError(f"it cannot be decompressed: {exc}") from None
    if len(message) > limit:
        raise TooLarge
    if not unpacker.eof:
        raise ValueError("it cannot be decompressed: it breaks off")
    return message
