"""From a pod to the nodes it stands for: plain functions over the API's JSON.

A pod counts for a service if it is Ready, is not being deleted (or no other counts), and says how
to reach it, in one of two ways. *Registered*: an annotation carries go-micro's record,
whose address must be one that the pod really has. *Labelled*: the pod has only the
selector label and a container port named `grpc`. If a pod has both, the record wins.
We trust nothing that a pod says.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any, Literal

from pymicro.base.printable import excerpt, listed
from pymicro.kubernetes.api.fields import mapping_at, mappings_at
from pymicro.kubernetes.cluster.terminating import terminating
from pymicro.nodes.address import join_address, split_address
from pymicro.nodes.document import share_pairs
from pymicro.nodes.keys import (
    METADATA_PREFIX,
    RECORD_PREFIX,
    SELECTOR_PREFIX,
    SERVICE,
    port_key,
    record_key,
    selector_key,
)
from pymicro.nodes.node import Node
from pymicro.nodes.record import LONGEST_TEXT, load_record
from pymicro.nodes.wellknown import GRPC, PROTOCOL, ZONE, other_protocol, zone_text

__all__ = [
    "PORT",
    "PodReader",
    "PodReading",
    "Why",
    "addresses_of",
    "annotations_of",
    "grpc_port",
    "is_of",
    "labels_of",
    "selector_keys",
    "services_of",
]

PORT = "grpc"

# A pod has a node for each process of a service, at a port of its own.
MOST_NODES_OF_POD = 8
# What is looked at of a pod; real ones have two addresses, a dozen containers and a few services.
_MOST_ADDRESSES = 16
_MOST_CONTAINERS = 256
_MOST_PORTS = 1024
_MOST_SERVICES = 256
_VERSION = "app.kubernetes.io/version"

Why = Literal[
    "",
    "terminating",
    "finished",
    "not ready",
    "no address",
    "no label",
    "no port",
    "bad annotation",
    "foreign address",
    "other service",
    "other protocol",
]

# Somebody has to mend these; the others pass by themselves or are intended.
_FAULTS = frozenset({"bad annotation", "foreign address"})


@dataclass(frozen=True, slots=True)
class PodReading:
    """What we read from a pod for one service.

    Attributes:
        nodes: The nodes listed. If the pod does not count, at most nodes that speak another
            protocol, which are shown and not called, or those of a pod that is being deleted
            and still serves, which count where no others do.
        why: Why the pod does not count, as a word for code; empty if it counts.
        text: The same for people, as a clause.
        registered: Whether the pod has a record, and not only the label.
        doubt: Why the port may be that of another service, as a clause; empty if it cannot be.
    """

    nodes: tuple[Node, ...] = ()
    why: Why = ""
    text: str = ""
    registered: bool = False
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class PodReader:
    """Reads pods for one service. Equal readers are interchangeable, so that watches can be shared."""

    service: str

    def __call__(self, pod: Mapping[str, Any]) -> tuple[Node, ...] | None:
        """The pod's nodes; None if it has none at present.

        Raises:
            ValueError: The pod says something wrong of itself.
        """
        reading = self.read(pod)
        if reading.why in _FAULTS:
            raise ValueError(reading.text)
        return reading.nodes or None

    def read(self, pod: Mapping[str, Any]) -> PodReading:
        """The pod's nodes, or why it has none to call."""
        if mapping_at(pod, "metadata").get("deletionTimestamp"):
            nodes = tuple(map(terminating, self._read_staying(pod).nodes))
            return PodReading(nodes, "terminating", "it is being deleted")
        return self._read_staying(pod)

    def _read_staying(self, pod: Mapping[str, Any]) -> PodReading:
        status = mapping_at(pod, "status")
        # A finished pod keeps its address in the status, and another pod may have that by now.
        phase = status.get("phase")
        if phase in ("Succeeded", "Failed"):
            said = [phase, status.get("reason"), status.get("message")]
            why = ": ".join(_one_line(part) for part in said if part and isinstance(part, str))
            return PodReading(why="finished", text=f"it has ended ({why})")
        if problem := _unready(status):
            return PodReading(why="not ready", text=problem)
        record = annotations_of(pod).get(record_key(self.service))
        if record:
            return self._registered(pod, record)
        return self._labelled(pod)

    def _registered(self, pod: Mapping[str, Any], text: object) -> PodReading:
        key = record_key(self.service)
        try:
            if not isinstance(text, str):
                raise ValueError("it is no text")
            record = load_record(text)
        except ValueError as exc:
            return _wrong("bad annotation", f"annotation {key}: {exc}")
        if record.service != self.service:
            return _wrong(
                "other service", f"annotation {key} is the record of a service {excerpt(record.service)}"
            )
        addresses = addresses_of(pod)
        zone = _zone(pod)
        places: dict[tuple[str, int, bool], Node] = {}
        own = ""
        # What is called comes first, before what is only shown.
        for node in sorted(record.nodes, key=lambda node: bool(other_protocol(node.metadata))):
            if is_of(node.address, addresses):
                host, port = split_address(node.address)
                own = own or _same_ip(host)
                # One process listens on all addresses of its pod, and would be two nodes.
                if _same_ip(host) == own:
                    places.setdefault((own, port, bool(other_protocol(node.metadata))), node)
        # A pod's share of the calls is that of its nodes, and its annotation may claim any number.
        nodes = tuple(_in_zone(node, zone) for node in islice(places.values(), MOST_NODES_OF_POD))
        if not all(other_protocol(node.metadata) for node in nodes):
            return PodReading(nodes, registered=True)
        dialled = [node for node in record.nodes if not other_protocol(node.metadata)]
        if dialled:
            where = listed(addresses, 4) or "none yet"
            return _wrong(
                "foreign address",
                f"annotation {key} names the address {excerpt(dialled[0].address)}, "
                f"which the pod does not have (it has {where})",
            )
        if record.problems:
            return _wrong("bad annotation", f"annotation {key}: {record.problems[0]}")
        if record.nodes:
            text = f"annotation {key} names the protocol {other_protocol(record.nodes[0].metadata)}"
            return PodReading(nodes, "other protocol", text, registered=True)
        return _wrong("bad annotation", f"annotation {key}: it lists no nodes")

    def _labelled(self, pod: Mapping[str, Any]) -> PodReading:
        key = selector_key(self.service)
        labels = labels_of(pod)
        if labels.get(key) != SERVICE:
            return PodReading(why="no label", text=f"it lacks the label {key}: {SERVICE}")
        port = grpc_port(pod, self.service)
        if port is None:
            return PodReading(why="no port", text=f"{_missing_port(pod, self.service)}{_named_ports(pod)}")
        addresses = addresses_of(pod)
        if not addresses:
            return PodReading(why="no address", text="it has no address yet")
        version = labels.get(_VERSION)
        given = {
            name.removeprefix(METADATA_PREFIX): value
            for name, value in annotations_of(pod).items()
            if name.startswith(METADATA_PREFIX) and isinstance(value, str)
        }
        try:
            # The port's name decides on the protocol, whatever the annotations say.
            metadata = share_pairs({**given, **_zone(pod), PROTOCOL: GRPC})
        except ValueError as exc:
            return _wrong("bad annotation", f"annotations {METADATA_PREFIX}…: {exc}")
        return PodReading(
            (
                Node(
                    id=str(mapping_at(pod, "metadata").get("uid", "")),
                    address=join_address(addresses[0], port),
                    service=self.service,
                    version=_shared_text(version) if isinstance(version, str) else "",
                    metadata=metadata,
                ),
            ),
            doubt=_doubt(pod, self.service, port),
        )


def services_of(pod: Mapping[str, Any]) -> Iterator[str]:
    """Names of the services a pod says it belongs to; `PodReader` decides whether to believe it.

    Only a record can carry a name that labels cannot spell.
    """
    recorded: set[str] = set()
    for key, text in annotations_of(pod).items():
        if key.startswith(RECORD_PREFIX) and isinstance(text, str) and text:
            if len(recorded) >= _MOST_SERVICES:
                return
            recorded.add(key.removeprefix(RECORD_PREFIX))
            try:
                yield load_record(text).service
            except ValueError:
                continue
    for key, value in labels_of(pod).items():
        name = key.removeprefix(SELECTOR_PREFIX)
        if name != key and value == SERVICE and name not in recorded:
            yield name


def selector_keys(pod: Mapping[str, Any]) -> Iterator[str]:
    """The label keys by which the pod is selected, one for each of its services (or more)."""
    for key, value in labels_of(pod).items():
        if value == SERVICE and key.startswith(SELECTOR_PREFIX):
            yield key


def labels_of(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its labels."""
    return mapping_at(mapping_at(pod, "metadata"), "labels")


def annotations_of(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its annotations."""
    return mapping_at(mapping_at(pod, "metadata"), "annotations")


def addresses_of(pod: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses that the pod really has, as kubelet reports them; the main one first."""
    status = mapping_at(pod, "status")
    first = status.get("podIP")
    found = dict.fromkeys([first] if first and isinstance(first, str) else [])
    for item in mappings_at(status, "podIPs")[:_MOST_ADDRESSES]:
        address = item.get("ip")
        if address and isinstance(address, str):
            found[address] = None
    return tuple(found)


def grpc_port(pod: Mapping[str, Any], service: str) -> int | None:
    """The TCP port of `service`: the one that an annotation says, else the first one named `grpc`.

    Ports of sidecars that are init containers count too.
    """
    said = _said_port(pod, service)
    if said.isascii() and said.isdigit():
        return int(said) if len(said) <= 5 and 0 < int(said) < 65536 else None
    return next(iter(_tcp_ports(pod, said or PORT)), None)


def _said_port(pod: Mapping[str, Any], service: str) -> str:
    said = annotations_of(pod).get(port_key(service))
    return said if isinstance(said, str) else ""


def _tcp_ports(pod: Mapping[str, Any], name: str) -> list[int]:
    """The numbers of all TCP ports of this name."""
    found: dict[int, None] = {}
    for port in _ports(pod):
        number = port.get("containerPort")
        tcp = port.get("protocol") in (None, "", "TCP")
        if tcp and port.get("name") == name and type(number) is int and 0 < number < 65536:
            found[number] = None
    return list(found)


def _missing_port(pod: Mapping[str, Any], service: str) -> str:
    said = _said_port(pod, service)
    if said:
        return f"annotation {port_key(service)} names the port {excerpt(said)}, and no TCP port is named so"
    return f"no port of its containers is named {PORT}"


def _doubt(pod: Mapping[str, Any], service: str, port: int) -> str:
    """Why `port` may be another service's: two containers may name theirs alike."""
    ports = _tcp_ports(pod, PORT)
    if len(ports) < 2 or _said_port(pod, service):
        return ""
    return (
        f"{len(ports)} ports are named {PORT} ({', '.join(map(str, ports))}) and nothing says which one is "
        f"that of {service}: {port} is taken"
    )


def _ports(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    spec = mapping_at(pod, "spec")
    sidecars = [one for one in mappings_at(spec, "initContainers") if one.get("restartPolicy") == "Always"]
    containers = [*mappings_at(spec, "containers"), *sidecars][:_MOST_CONTAINERS]
    ports = (port for container in containers for port in mappings_at(container, "ports"))
    return islice(ports, _MOST_PORTS)


def _named_ports(pod: Mapping[str, Any]) -> str:
    """` (there are http 80, dns 53/UDP)`, for the message that no port is named grpc."""
    found = []
    for one in islice(_ports(pod), 8):
        protocol = one.get("protocol") or "TCP"
        other = "" if protocol == "TCP" else f"/{protocol}"
        found.append(f"{one.get('name') or 'unnamed'} {excerpt(one.get('containerPort'), 20)}{other}")
    return f" (there are {_one_line(', '.join(found))})" if found else " (they declare none)"


def _unready(status: Mapping[str, Any]) -> str:
    """Why the pod is not Ready; empty if it is."""
    for condition in mappings_at(status, "conditions"):
        if condition.get("type") == "Ready":
            if condition.get("status") == "True":
                return ""
            said = [condition.get("reason"), condition.get("message")]
            why = ": ".join(_one_line(part) for part in said if part and isinstance(part, str))
            return f"it is not ready ({why})" if why else "it is not ready"
    return "it is not ready (nothing is known of it yet)"


def _zone(pod: Mapping[str, Any]) -> dict[str, str]:
    """The pod's zone as metadata; empty if the cluster does not say.

    Since 1.35 Kubernetes copies the label from the machine to its pods (KEP-4742, in
    1.33 and 1.34 behind a gate); before that, users have to label the pods themselves.
    """
    zone = zone_text(labels_of(pod).get(ZONE))
    return {ZONE: zone} if zone else {}


def _in_zone(node: Node, zone: Mapping[str, str]) -> Node:
    """The node with the pod's zone; what its record claims counts only where the cluster says nothing."""
    if not zone or node.metadata.get(ZONE) == zone[ZONE]:
        return node
    try:
        return replace(node, metadata=share_pairs({**node.metadata, **zone}))
    except ValueError:
        # The zone was one pair too many.
        return replace(node, metadata={key: text for key, text in node.metadata.items() if key != ZONE})


def is_of(address: str, addresses: Sequence[str]) -> bool:
    """Whether `host:port` is at one of `addresses`."""
    host, _ = split_address(address)
    if host in addresses:
        return True
    # IPv6 has many spellings of one address.
    return ":" in host and _same_ip(host) in map(_same_ip, addresses)


@lru_cache(maxsize=256)
def _same_ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text


def _wrong(why: Why, text: str) -> PodReading:
    return PodReading(why=why, text=text, registered=True)


def _one_line(text: str) -> str:
    text = text[:200]
    return text if text.isprintable() else excerpt(text)


@lru_cache(maxsize=256)
def _shared_text(version: str) -> str:
    # Ten thousand nodes share one text.
    return version[:LONGEST_TEXT]
