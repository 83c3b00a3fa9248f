"""Nodes and node sets, as immutable values.

A `Node` is one running instance of a service. A `NodeSet` is everything that a
registry or selector knows about one service at one moment: each set replaces the
one before as a whole, nobody merges them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, count
from operator import is_not
from typing import Any, Literal

__all__ = ["EMPTY", "NO_METADATA", "Endpoint", "Node", "NodeSet", "Value", "differing"]

# How many differences between two sets `differing` looks for one by one.
_DIFFERENCES = 32

# A plain dict, because nodes travel in pickled errors; nobody writes to it.
NO_METADATA: Mapping[str, str] = {}


def _no_metadata() -> Mapping[str, str]:
    return NO_METADATA


@dataclass(frozen=True, slots=True)
class Value:
    """The schema of a message or field, as go-micro records it.

    Attributes:
        name: The field's name, or the message's for the outermost value.
        type: The proto name of a scalar type or of the message.
        values: The message's fields; empty for a scalar.
    """

    name: str
    type: str
    values: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One RPC method in the registry record.

    Attributes:
        name: `Greeter.SayHello`: the proto service without its package, a dot, the method.
        request: Schema of the request message, if the registry carries it.
        response: Schema of the response message, if the registry carries it.
        metadata: Free text pairs; a streaming method has `stream: "true"`.
    """

    name: str
    request: Value | None = None
    response: Value | None = None
    metadata: Mapping[str, str] = field(default_factory=_no_metadata)


@dataclass(frozen=True, slots=True)
class Node:
    """One running instance of a service, which clients dial.

    Attributes:
        id: Unique within the service, and new for each start of a process.
        address: `host:port`, IPv6 as `[::1]:8080`; if `kind` is `name`, a target that
            grpc-core resolves itself.
        service: The registered name of its service.
        version: The service's version, free text.
        metadata: Free text pairs from the registry; do not change them.
        endpoints: The methods it offers, if the registry knows them.
        kind: `address` for one dialled address, `name` for a name whose
            addresses grpc-core resolves and balances over (selector `static`).
        key: Its identity for pools and tables: a node with the same id at another
            address is another node.
    """

    id: str
    address: str
    service: str = ""
    version: str = ""
    metadata: Mapping[str, str] = field(default_factory=_no_metadata)
    endpoints: tuple[Endpoint, ...] = ()
    kind: Literal["address", "name"] = "address"
    key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.id}@{self.address}")

    def __hash__(self) -> int:
        return hash(self.key)

    def to_json(self) -> dict[str, Any]:
        """The node as the command line prints it with `-o json`."""
        return {
            "id": self.id,
            "address": self.address,
            "service": self.service,
            "version": self.version,
            "metadata": dict(self.metadata),
        }


@dataclass(frozen=True, slots=True)
class NodeSet:
    """All nodes of one service at one moment, in the order of their keys.

    Build it with `NodeSet.of`, which sorts the nodes and drops repeated keys, so that
    two sets with the same nodes are equal.
    """

    nodes: tuple[Node, ...] = ()

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> NodeSet:
        """The set of `nodes`; if two have the same key, the later one stays."""
        by_key = {node.key: node for node in nodes}
        return cls(tuple(by_key[key] for key in sorted(by_key)))

    def select(
        self,
        version: str | None = None,
        metadata: Mapping[str, str] = NO_METADATA,
        endpoint: str | None = None,
    ) -> NodeSet:
        """The nodes with this version (any if None), all of these metadata pairs, and this endpoint.

        A node that lists no endpoints may have any.
        """
        if version is None and not metadata and endpoint is None:
            return self
        wanted = metadata.items()
        return NodeSet(
            tuple(
                node
                for node in self.nodes
                if (version is None or node.version == version)
                and all(node.metadata.get(key) == value for key, value in wanted)
                and (
                    endpoint is None
                    or not node.endpoints
                    or any(endpoint == one.name for one in node.endpoints)
                )
            )
        )

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __bool__(self) -> bool:
        return bool(self.nodes)


EMPTY = NodeSet()


def differing(old: NodeSet, new: NodeSet) -> tuple[Sequence[Node], Sequence[Node]]:
    """Both sets without most of the nodes that are the same objects in both, in the order of their keys.

    Registries keep the same objects for unchanged nodes: of ten thousand nodes only the few
    changed ones should cost anything. After some differences this function gives up, and
    returns all that is left of both sets.
    """
    ours, theirs = old.nodes, new.nodes
    before: list[Node] = []
    after: list[Node] = []
    for _ in range(_DIFFERENCES):
        same = next(compress(count(), map(is_not, ours, theirs)), min(len(ours), len(theirs)))
        ours, theirs = ours[same:], theirs[same:]
        if not ours or not theirs:
            break
        # Both are in the order of their keys.
        one, other = ours[0], theirs[0]
        if one.key <= other.key:
            before.append(one)
            ours = ours[1:]
        if other.key <= one.key:
            after.append(other)
            theirs = theirs[1:]
    return (*before, *ours), (*after, *theirs)
