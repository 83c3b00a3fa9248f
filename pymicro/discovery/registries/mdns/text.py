"""The text in a node's TXT record, in go-micro's form.

JSON of Service, Version, Endpoints and Metadata → zlib → lower-case hex →
strings of at most 255 bytes. Anybody on the link may write such a record, so the reader
trusts nothing and unpacks no more than a record may have.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymicro.base.printable import excerpt
from pymicro.base.recent import Recent
from pymicro.nodes.document import load_text, read_list, read_pairs, read_text
from pymicro.nodes.endpoints import dump_endpoints, share_endpoints
from pymicro.nodes.node import Endpoint, Node
from pymicro.nodes.record import LONGEST_RECORD, LONGEST_TEXT

__all__ = ["Text", "dump", "load"]


@dataclass(frozen=True, slots=True)
class Text:
    """The content of a TXT record; `size` is its bytes when unpacked."""

    service: str
    version: str
    endpoints: tuple[Endpoint, ...]
    metadata: Mapping[str, str]
    size: int


def dump(node: Node, *, endpoints: bool = True) -> bytes:
    """The text of `node` as hex, not yet cut into strings.

    Args:
        endpoints: False leaves them out, for a message that would become too long.

    Raises:
        ValueError: Some text in the node is no valid unicode.
    """
    document: dict[str, Any] = {
        "Service": node.service,
        "Version": node.version,
        "Endpoints": dump_endpoints(node.endpoints) if endpoints else None,
        "Metadata": dict(node.metadata),
    }
    try:
        data = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise ValueError(f"the record of {excerpt(node.service)} is no valid unicode") from None
    return zlib.compress(data).hex().encode()


# The nodes of one version mostly have the same text: it holds no id and no address. So many
# bytes of unpacked texts are kept, which may be thirty times as many as objects.
_kept: Recent[bytes, Text] = Recent(256 << 10)


def load(text: bytes) -> Text:
    """Read the hex in `text`.

    Raises:
        ValueError: The text is no such record; the message says what is wrong.
    """
    known = _kept.get(text)
    if known is None:
        known = _read(text)
        _kept.put(text, known, known.size)
    return known


def _read(text: bytes) -> Text:
    try:
        packed = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise ValueError("its text is not in hex") from None
    unpacking = zlib.decompressobj()
    try:
        # A bomb of 30 KiB can unpack to 30 MB.
        data = unpacking.decompress(packed, LONGEST_RECORD)
    except zlib.error:
        raise ValueError("its text is not packed by zlib") from None
    if unpacking.unconsumed_tail:
        raise ValueError(f"its text has more than {LONGEST_RECORD} bytes when unpacked")
    if not unpacking.eof:
        raise ValueError("its text breaks off")
    try:
        document = load_text(data)
        endpoints = read_list(document, "Endpoints")
        return Text(
            service=read_text(document, "Service", longest=LONGEST_TEXT),
            version=read_text(document, "Version", empty=True, longest=LONGEST_TEXT),
            endpoints=share_endpoints(endpoints, nulls=True),
            metadata=read_pairs(document, "Metadata", shared=True),
            size=len(data),
        )
    except RecursionError:
        raise ValueError("its text is nested too deep") from None
