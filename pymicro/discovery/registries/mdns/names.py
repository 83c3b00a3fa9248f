"""DNS names of services and nodes, as go-micro makes them.

| what | name |
|---|---|
| service `go.micro.srv.greeter` | `go.micro.srv.greeter.micro.` |
| its node `x-1` | `x-1.go.micro.srv.greeter.micro.` |
| its entry in the list of services | `go.micro.srv.greeter._services.micro.` |

So there is no `_tcp`, and dots in a name or an id separate labels.
We compare names with their case, unlike other users of the DNS.
"""

from __future__ import annotations

from pymicro.base.printable import excerpt

__all__ = [
    "SERVICES",
    "id_problem",
    "instance_name",
    "listed_name",
    "listed_service",
    "node_id",
    "service_name",
    "service_of",
    "service_problem",
]

_DOMAIN = "micro."
# A question for this name asks for the list of services.
_LIST = "_services"
SERVICES = f"{_LIST}.{_DOMAIN}"

# RFC 1035 2.3.4: a label has 63 bytes. A name has 255 with the lengths before its labels
# and the empty label at the end; zeroconf reads names of up to 253 bytes, dots included.
LONGEST_LABEL = 63
LONGEST_NAME = 253


def service_name(service: str) -> str:
    """The name to ask for to find the nodes of `service`."""
    return f"{service}.{_DOMAIN}"


def instance_name(node_id: str, service: str) -> str:
    """The name of one node."""
    return f"{node_id}.{service_name(service)}"


def listed_name(service: str) -> str:
    """The name of `service` in the list of services."""
    return f"{service}.{SERVICES}"


def listed_service(name: str) -> str:
    """The service of a name in the list of services; empty if the name is not in it."""
    service = name.removesuffix(f".{SERVICES}")
    return "" if service == name or not service.isprintable() else service


def service_of(name: str) -> str:
    """The service whose nodes a question for `name` looks for; empty if it looks for none."""
    service = name.removesuffix(f".{_DOMAIN}")
    return "" if service == name else service


def node_id(name: str, service: str) -> str:
    """The id of the node of `service` with this name.

    Raises:
        ValueError: The id is not printable.
    """
    found = name.removesuffix(f".{service_name(service)}")
    if not found.isprintable():
        raise ValueError(f"node id {excerpt(found)} is not printable")
    return found


def service_problem(service: str) -> str:
    """Why mdns cannot carry nodes of `service`; empty if it can."""
    if problem := _label_problem(service, "the service's name"):
        return problem
    if service.split(".")[-1] == _LIST:
        return f"the service's name {excerpt(service)} is go-micro's name for the list of services"
    return _length_problem(listed_name(service), f"the service's name {excerpt(service)}")


def id_problem(node_id: str, service: str) -> str:
    """Why mdns cannot carry a node with this id; empty if it can."""
    return _label_problem(node_id, "the node's id") or _length_problem(
        instance_name(node_id, service), f"the node's id {excerpt(node_id)} with the service's name {service}"
    )


def _label_problem(text: str, what: str) -> str:
    if not text:
        return f"{what} is empty"
    if not text.isprintable():
        return f"{what} {excerpt(text)} has characters that cannot be printed"
    for label in text.split("."):
        # Printable text has no half characters, so this cannot fail.
        size = len(label.encode())
        if not size:
            return f"{what} {excerpt(text)} has an empty part before or after a dot"
        if size > LONGEST_LABEL:
            return (
                f"{what} {excerpt(text)} has a part of {size} bytes, {excerpt(label)}: "
                f"between dots {LONGEST_LABEL} are the most"
            )
    return ""


def _length_problem(name: str, what: str) -> str:
    size = len(name.encode())
    if size <= LONGEST_NAME:
        return ""
    return f"{what} makes a DNS name of {size} bytes: {LONGEST_NAME} are the most"
