"""The keys of nodes in etcd, in go-micro's form: `/micro/registry/<service>/<node id>`."""

from __future__ import annotations

from pymicro.base.printable import excerpt

__all__ = ["ROOT", "key_of", "prefix_of"]

ROOT = "/micro/registry/"


def prefix_of(service: str) -> str:
    """The prefix of the keys of a service's nodes.

    Raises:
        ValueError: There can be no such keys.
    """
    return f"{ROOT}{_part(service, 'service')}/"


def key_of(service: str, node_id: str) -> str:
    """The key of one node.

    Raises:
        ValueError: There can be no such key.
    """
    return f"{prefix_of(service)}{_part(node_id, 'node id')}"


def _part(text: str, what: str) -> str:
    # go-micro cleans the path that it makes of these, so such a key would lie elsewhere.
    if text in ("", ".", ".."):
        raise ValueError(f"{excerpt(text)} is no {what} that can be a part of etcd's keys")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the {what} {excerpt(text)} is no valid unicode") from None
    return text.replace("/", "-")
