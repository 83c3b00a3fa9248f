"""gRPC's forms on the wire that are not HTTP/2's own: metadata, status texts, compressed messages.

The rules are those of grpc's PROTOCOL-HTTP2.md and compression.md.
"""

from __future__ import annotations

import binascii
import re
import zlib
from collections.abc import Iterable

__all__ = [
    "ACCEPTED",
    "TooLarge",
    "Unpacker",
    "compress",
    "decompress",
    "pairs_of",
    "read_pairs",
    "read_text",
    "text_of",
]

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
    return zlib.compress(data, wbits=_FORMATS[encoding])


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
    unpacker = Unpacker(encoding, limit)
    if not data:
        return b""  # grpc-core takes it, and others send it
    unpacker.feed(data, limit + 1)
    return unpacker.message()


class Unpacker:
    """A message that came compressed, unpacked in steps.

    Args:
        encoding: As `grpc-encoding` says.
        limit: The largest message that is made of it.

    Raises:
        LookupError: The encoding is unknown, or there is none.
    """

    def __init__(self, encoding: bytes | None, limit: int) -> None:
        if encoding not in _FORMATS:
            raise LookupError(encoding)
        self._limit = limit
        self._zlib = zlib.decompressobj(wbits=_FORMATS[encoding])
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def left(self) -> bool:
        """Whether there is more of it, within its limit."""
        return not self._zlib.eof and self._size <= self._limit

    def feed(self, data: bytes, most: int) -> None:
        """Unpack at most so many bytes of it, and no more than one above its limit.

        Raises:
            ValueError: It is damaged.
        """
        # zlib takes 0 for no limit.
        most = min(most, self._limit + 1 - self._size)
        try:
            part = self._zlib.decompress(data, most)
        except zlib.error as exc:
            raise ValueError(f"it cannot be decompressed: {exc}") from None
        self._parts.append(part)
        self._size += len(part)

    def rest(self) -> bytes:
        """Unpack what is left of it; the message. Raises as `feed` and `message`."""
        self.feed(self._zlib.unconsumed_tail, self._limit + 1)
        return self.message()

    def message(self) -> bytes:
        """The whole message.

        Raises:
            TooLarge: It is larger than its limit.
            ValueError: It breaks off.
        """
        if self._size > self._limit:
            raise TooLarge
        if not self._zlib.eof:
            raise ValueError("it cannot be decompressed: it breaks off")
        if self._zlib.unused_data:  # what follows would be lost in silence
            raise ValueError("it cannot be decompressed: something follows its end")
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
