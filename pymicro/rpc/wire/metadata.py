"""Checks that grpc-core accepts metadata, at the place of the mistake.

An illegal key or value makes the whole batch fail that it is sent with. If that
batch carries the status, the caller waits until its deadline.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pymicro.base.printable import excerpt, shortened

__all__ = [
    "IDEMPOTENT",
    "LIMIT",
    "LONGEST_FORWARDED",
    "NOT_STARTED",
    "PREVIOUS_ATTEMPTS",
    "PUSHBACK",
    "STANDARD_PREVIOUS_ATTEMPTS",
    "Pair",
    "checked",
    "size_of",
    "why_not_forwarded",
]

Pair = tuple[str, str | bytes]

# A trailer of our servers: no handler has run, so the call may be tried on another node.
NOT_STARTED: Pair = ("pymicro-not-started", "1")

# A trailer of our servers on every answer of a method that may run twice.
IDEMPOTENT: Pair = ("pymicro-idempotent", "1")

# How often a call was tried before. An application cannot send grpc's own key (gRFC A6):
# grpc-core removes it if `grpc.enable_retries` is 1.
PREVIOUS_ATTEMPTS = "pymicro-previous-attempts"
STANDARD_PREVIOUS_ATTEMPTS = "grpc-previous-rpc-attempts"

# A trailer in which a server says when to retry, or never to (gRFC A6).
PUSHBACK = "grpc-retry-pushback-ms"

# grpc-core refuses more than 8 KiB of received metadata at random and more than
# 16 KiB always (`grpc.max_metadata_size`). This leaves room for what grpc itself adds.
LIMIT = 7 << 10

# Header names and values, as in grpc's PROTOCOL-HTTP2.md.
_KEY = re.compile(r"[0-9a-z_.-]+", re.ASCII)
_VALUE = re.compile(r"[\x20-\x7e]*", re.ASCII)


# Of a value that is passed on: whoever receives it refuses more than 8 KiB in all at random.
LONGEST_FORWARDED = 8000


def checked(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[Pair, ...]:
    """The metadata as pairs, keys in lower case.

    Raises:
        ValueError: A key or value cannot be sent; says which and why.
        TypeError: An item is no pair of key and value.
    """
    return tuple([_checked(pair) for pair in metadata])


def why_not_forwarded(pair: Pair) -> str | None:
    """Why a pair that somebody else has sent cannot be sent on; None if it can."""
    if len(pair[1]) > LONGEST_FORWARDED:
        return (
            f"metadata {shortened(pair[0])} has {len(pair[1])} bytes, which is more than {LONGEST_FORWARDED}"
        )
    try:
        _checked(pair)
    except (ValueError, TypeError) as exc:
        return str(exc)
    return None


def size_of(metadata: Iterable[Pair]) -> int:
    """Bytes that count against a receiver's limit for these pairs (RFC 7541, section 4.1)."""
    total = 0
    for key, value in metadata:
        # Binary values travel as base64.
        length = (len(value) + 2) // 3 * 4 if key.endswith("-bin") else len(value)
        total += len(key) + length + 32
    return total


def _checked(pair: tuple[str, str | bytes]) -> Pair:
    # Of what is wrong the text names the type and never the value: it may be a secret.
    if isinstance(pair, str | bytes):
        raise TypeError(f"metadata is pairs of key and value, and not {type(pair).__name__}")
    try:
        key, value = pair
    except (ValueError, TypeError):
        raise TypeError(f"metadata is pairs of key and value, and not {type(pair).__name__}") from None
    if not isinstance(key, str):
        raise TypeError(f"metadata key {excerpt(key)} is no text")
    key = key.lower()
    if not _KEY.fullmatch(key):
        raise ValueError(f"metadata key {excerpt(key)} may only have letters, digits, '-', '_' and '.'")
    if key.endswith("-bin"):
        if not isinstance(value, bytes):
            raise TypeError(
                f"metadata {shortened(key)} is binary by its name: "
                f"its value must be bytes, not {type(value).__name__}"
            )
        return key, value
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not isinstance(text, str):
        raise TypeError(f"metadata {shortened(key)} must be text, not {type(value).__name__}")
    if not _VALUE.fullmatch(text):
        raise ValueError(
            f"metadata {shortened(key)} may only have printable ASCII; "
            f"name it {shortened(key)}-bin and give bytes"
        )
    return key, value
