"""Addresses as text: `host:port`, with brackets around IPv6."""

from __future__ import annotations

import re
import socket

__all__ = ["is_dns_name", "is_ip", "join_address", "split_address"]

# RFC 1035 2.3.1 with RFC 1123 2.1 (a digit may come first); the underscore because
# Docker Compose and SRV names have it.
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def split_address(address: str, default_port: int | None = None) -> tuple[str, int]:
    """Host and port of `host:port`, `[v6]:port` or `:port` (host empty).

    Raises:
        ValueError: No port where one is needed, or one that is no port.
    """
    if address.startswith("["):
        host, bracket, tail = address[1:].partition("]")
        if not bracket:
            raise ValueError(f"{address!r} lacks its closing bracket")
        port_text = tail.removeprefix(":") if tail else ""
    elif address.count(":") > 1:
        host, port_text = address, ""
    else:
        host, _, port_text = address.partition(":")
    if not port_text:
        if default_port is None:
            raise ValueError(f"{address!r} has no port (host:port)")
        return host, default_port
    if not (port_text.isascii() and port_text.isdigit() and int(port_text) < 65536):
        raise ValueError(f"{port_text!r} is no port")
    return host, int(port_text)


def join_address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_ip(host: str) -> bool:
    """Whether `host` is an IPv4 or IPv6 address and not a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except OSError:
            continue
        return True
    return False


def is_dns_name(name: str) -> bool:
    """Whether `name` can be asked of the DNS: labels with dots between them, one more may end it."""
    labels = name.removesuffix(".").split(".")
    return len(name) <= 253 and all(map(_LABEL.fullmatch, labels))
