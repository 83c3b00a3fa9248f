"""Nodes that people list by hand: `10.0.0.1:8080`, `[::1]:8080`, `orders.example.com:8080`."""

from __future__ import annotations

from pymicro.base.printable import excerpt
from pymicro.nodes.address import is_ip, is_scheme, join_address, split_address
from pymicro.nodes.node import Node

__all__ = ["listed_node"]

# A name of the DNS has 253 characters (RFC 1035 2.3.4: 255 bytes, with the lengths of its parts).
_LONGEST_HOST = 253


def listed_node(service: str, text: str, *, names: bool = False) -> Node:
    """The node of `service` at an address.

    Args:
        service: The service's name.
        text: `host:port`.
        names: Whether a host that is a name stands for all addresses behind it; else for one.

    Raises:
        ValueError: It is no address that can be dialled; says why.
    """
    text = text.strip()
    host, port = split_address(text)
    if not host:
        raise ValueError("the host is missing")
    if port == 0:
        raise ValueError("0 is no port that can be dialled")
    if text.startswith("[") and not (":" in host and is_ip(host)):
        raise ValueError(f"{excerpt(host)} in brackets is no IPv6 address")
    if not host.isprintable() or len(host) > _LONGEST_HOST or any(char in host for char in " /@"):
        raise ValueError(f"{excerpt(host)} is no host")
    if is_scheme(host):
        raise ValueError(f"gRPC takes {host}: for a scheme; if a host has that name, write {host}.:{port}")
    address = join_address(host, port)
    # Only the address can tell two nodes apart.
    behind_a_name = names and not is_ip(host)
    return Node(id=address, address=address, service=service, kind="name" if behind_a_name else "address")
