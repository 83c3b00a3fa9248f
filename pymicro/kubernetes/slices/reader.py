"""From an EndpointSlice to nodes: plain functions over the API's JSON (discovery.k8s.io/v1).

A Kubernetes Service has several slices: one for each hundred endpoints and for each
family of addresses. A field that a slice leaves out (null) has the meaning that the
API's documentation gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pymicro.base.printable import excerpt, shortened
from pymicro.base.recent import Recent
from pymicro.kubernetes.api.fields import mapping_at, mappings_at
from pymicro.kubernetes.cluster.terminating import terminating
from pymicro.nodes.address import is_ip, join_address
from pymicro.nodes.node import NO_METADATA, Node, NodeSet
from pymicro.nodes.wellknown import ZONE

__all__ = [
    "FOR_NODES",
    "FOR_ZONES",
    "HOSTNAME",
    "SERVICE_LABEL",
    "EndpointReading",
    "SliceReader",
    "SliceReading",
    "name_of",
    "one_family",
    "owner_of",
    "owners_of",
    "read_slice",
]

SERVICE_LABEL = "kubernetes.io/service-name"

# Keys of node metadata, besides ZONE: Kubernetes' own word ("Well-Known Labels"), and
# the slice's field `hints`, joined by commas.
HOSTNAME = "kubernetes.io/hostname"
FOR_ZONES = "hints.forZones"
FOR_NODES = "hints.forNodes"

_METADATA_KEYS = (ZONE, HOSTNAME, FOR_ZONES, FOR_NODES)

_PORT = "grpc"
# The values of appProtocol for a port that speaks gRPC (KEP-3726; Istio and Google's
# gateways use `grpc`).
_PROTOCOLS = frozenset({"grpc", "kubernetes.io/h2c", "http2", "h2c"})

# A longer text comes from a hostile or broken controller; names of Kubernetes are shorter.
_LONGEST = 253
_MOST_HINTS = 16
# "Each slice may include a maximum of 1000 endpoints."
_MOST_ENDPOINTS = 1000

Why = Literal["", "not ready", "terminating", "no address"]


@dataclass(frozen=True, slots=True)
class EndpointReading:
    """One endpoint of a slice.

    Attributes:
        name: The pod's name, or the address.
        node: The node to call; None if there is none.
        why: Why the endpoint does not count, as a word for code. One that is terminating and still
            serves has a node: it counts where no other does.
    """

    name: str
    node: Node | None = None
    why: Why = ""


@dataclass(frozen=True, slots=True)
class SliceReading:
    """What we read from a slice.

    Attributes:
        endpoints: All of them.
        problem: Why none of them can be called, as a clause; empty if some may be.
    """

    endpoints: tuple[EndpointReading, ...] = ()
    problem: str = ""

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The endpoints that can be called, those that are terminating included."""
        return tuple(one.node for one in self.endpoints if one.node is not None)


@dataclass(frozen=True, slots=True)
class SliceReader:
    """Reads slices for the service of this name. Equal readers are interchangeable."""

    service: str

    def __call__(self, found: Mapping[str, Any]) -> tuple[Node, ...] | None:
        """The nodes of a slice; None if there are none."""
        return read_slice(found, self.service).nodes or None


def read_slice(found: Mapping[str, Any], service: str) -> SliceReading:
    """The endpoints of a slice, as nodes of `service`."""
    family = found.get("addressType")
    if family not in ("IPv4", "IPv6"):
        return SliceReading(problem=f"its addresses are of type {excerpt(family)}, not IPv4 or IPv6")
    port = _port(found)
    if port is None:
        return SliceReading(problem=f"none of its ports is named {_PORT}{_ports_text(found)}")
    endpoints = mappings_at(found, "endpoints")[:_MOST_ENDPOINTS]
    return SliceReading(tuple(_endpoint(one, port, service) for one in endpoints))


def name_of(found: Mapping[str, Any]) -> str:
    """The slice's own name."""
    return _short_text(mapping_at(found, "metadata"), "name")


def owner_of(found: Mapping[str, Any]) -> tuple[str, str]:
    """Name and namespace of the Service a slice belongs to."""
    metadata = mapping_at(found, "metadata")
    return _short_text(mapping_at(metadata, "labels"), SERVICE_LABEL), _short_text(metadata, "namespace")


def owners_of(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The name of the Service a slice belongs to, if it says one."""
    name, _ = owner_of(found)
    return (name,) if name else ()


def one_family(nodes: NodeSet) -> NodeSet:
    """The set with each pod once; if a pod has addresses of both families, the IPv4 one stays.

    A pod that stood in the set twice would get twice the calls.
    """
    six = [node for node in nodes if node.address.startswith("[")]
    if not six or len(six) == len(nodes):
        return nodes
    four = {node.id for node in nodes if not node.address.startswith("[")}
    return NodeSet(tuple(node for node in nodes if not (node.address.startswith("[") and node.id in four)))


def _endpoint(found: Mapping[str, Any], port: int, service: str) -> EndpointReading:
    addresses = found.get("addresses")
    # "No semantics are defined for additional addresses beyond the first."
    address = addresses[0] if isinstance(addresses, list) and addresses else None
    target = mapping_at(found, "targetRef")
    name = _short_text(target, "name")
    if not isinstance(address, str) or not is_ip(address) or "%" in address:
        return EndpointReading(name or "an endpoint", why="no address")
    name = name or address
    conditions = mapping_at(found, "conditions")
    # "A nil value should be interpreted as true."
    ready = conditions.get("ready") is not False
    # A Service with publishNotReadyAddresses has endpoints that are ready *and* terminating.
    leaving = conditions.get("terminating") is True
    if not ready and not leaving:
        return EndpointReading(name, why="not ready")
    serving = conditions.get("serving")
    # "If nil, consumers should defer to the ready condition."
    if leaving and not (ready if serving is None else serving is True):
        return EndpointReading(name, why="terminating")
    where = join_address(address, port)
    node = Node(_short_text(target, "uid") or where, where, service, "", _metadata(found))
    return EndpointReading(name, terminating(node), "terminating") if leaving else EndpointReading(name, node)


def _metadata(found: Mapping[str, Any]) -> Mapping[str, str]:
    zone, hostname, hints = (
        _short_text(found, "zone"),
        _short_text(found, "nodeName"),
        mapping_at(found, "hints"),
    )
    zones, nodes = (
        ",".join(_short_text(one, "name") for one in mappings_at(hints, key)[:_MOST_HINTS])
        for key in ("forZones", "forNodes")
    )
    return _shared_metadata(zone, hostname, zones, nodes)


# Characters are the cost.
_mappings: Recent[tuple[str, ...], Mapping[str, str]] = Recent(512 << 10)


def _shared_metadata(*given: str) -> Mapping[str, str]:
    # All pods of a machine share one mapping.
    known = _mappings.get(given)
    if known is not None:
        return known
    metadata = {key: text for key, text in zip(_METADATA_KEYS, given, strict=True) if text}
    return _mappings.put(given, metadata, sum(map(len, given))) if metadata else NO_METADATA


def _port(found: Mapping[str, Any]) -> int | None:
    """The port to call: the one named grpc, else one that says it speaks gRPC, else the only one."""
    # A slice's port without a number stands for all ports, which tells a caller nothing.
    ports = [
        one
        for one in mappings_at(found, "ports")
        if one.get("protocol") in (None, "TCP") and type(one.get("port")) is int and 0 < one["port"] < 65536
    ]
    for fits in (
        lambda one: one.get("name") == _PORT,
        lambda one: one.get("appProtocol") in _PROTOCOLS,
        lambda _: len(ports) == 1,
    ):
        for one in ports:
            if fits(one):
                return int(one["port"])
    return None


def _ports_text(found: Mapping[str, Any]) -> str:
    ports = [
        f"{shortened(_short_text(one, 'name'), 63) or 'unnamed'} {excerpt(one.get('port'), 20)}"
        for one in mappings_at(found, "ports")[:8]
    ]
    return f", and it has several: {', '.join(ports)}" if ports else ", and it has none at all"


def _short_text(found: Mapping[str, Any], key: str) -> str:
    text = found.get(key)
    return text if isinstance(text, str) and len(text) <= _LONGEST and text.isprintable() else ""
