"""A node as one JSON document, as registry `local` keeps it; the reader trusts nothing."""

from __future__ import annotations

import json

from pymicro.base.printable import excerpt
from pymicro.nodes.address import is_scheme, split_address
from pymicro.nodes.document import load_text, read_list, read_pairs, read_text
from pymicro.nodes.endpoints import dump_endpoints, share_endpoints
from pymicro.nodes.node import Node

__all__ = ["dump_node", "load_node"]


def dump_node(node: Node) -> bytes:
    """The document of a node: everything but its `kind`, which is always `address` here."""
    document = {
        "id": node.id,
        "address": node.address,
        "service": node.service,
        "version": node.version,
        "metadata": dict(node.metadata),
        "endpoints": dump_endpoints(node.endpoints),
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def load_node(data: bytes) -> Node:
    """The node of a document.

    Raises:
        ValueError: The data is no such document; the message says what is wrong.
    """
    try:
        document = load_text(data)
        address = read_text(document, "address")
        host, port = split_address(address)
        # Addresses end up in log lines and in grpc's targets.
        odd = not host.isprintable() or any(char in host for char in " /") or is_scheme(host)
        if not host or not port or odd:
            raise ValueError(f"address {excerpt(address)} cannot be dialled")
        return Node(
            id=read_text(document, "id"),
            address=address,
            service=read_text(document, "service"),
            version=read_text(document, "version", empty=True),
            metadata=read_pairs(document, "metadata"),
            endpoints=share_endpoints(read_list(document, "endpoints")),
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None
