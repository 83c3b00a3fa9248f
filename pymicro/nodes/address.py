"""Addresses as text: `host:port`, with brackets around IPv6; and those of this machine."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import struct
import sys
from collections.abc import Iterator

from pymicro.base.printable import excerpt

__all__ = ["is_dns_name", "is_ip", "join_address", "private_host", "source_host", "split_address"]

# RFC 1035 2.3.1 with RFC 1123 2.1 (a digit may come first). The underscore, because Docker
# Compose and SRV names have it.
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")

# Characters of an address that are shown where it is none: it may be of any length.
_SHOWN = 80


def split_address(address: str, default_port: int | None = None) -> tuple[str, int]:
    """Host and port of `host:port`, `[v6]:port` or `:port` (host empty).

    Raises:
        ValueError: A port is missing, or is no port.
    """
    if address.startswith("["):
        host, bracket, tail = address[1:].partition("]")
        if not bracket:
            raise ValueError(f"{excerpt(address, _SHOWN)} lacks its closing bracket")
        port_text = tail.removeprefix(":") if tail else ""
    elif address.count(":") > 1:
        host, port_text = address, ""
    else:
        host, _, port_text = address.partition(":")
    if not port_text:
        if default_port is None:
            raise ValueError(f"{excerpt(address, _SHOWN)} has no port (host:port)")
        return host, default_port
    digits = port_text.isascii() and port_text.isdigit() and len(port_text) <= _SHOWN
    if not digits or int(port_text) >= 65536:
        raise ValueError(f"{excerpt(port_text, _SHOWN)} is no port")
    return host, int(port_text)


def join_address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_ip(host: str) -> bool:
    """Whether `host` is an IPv4 or IPv6 address and not a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError):  # it has a null character
            continue
        return True
    return False


def is_dns_name(name: str) -> bool:
    """Whether `name` can be looked up in the DNS: labels with dots between them, perhaps a final dot."""
    labels = name.removesuffix(".").split(".")
    return len(name) <= 253 and all(map(_LABEL.fullmatch, labels))


# grpc-core takes `unix:80` for the socket named 80, and `dns:80` for the host 80 (gRPC, "Name
# Resolution"). With a final dot each of them is a host again.
_SCHEMES = frozenset({"dns", "google-c2p", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds"})


def is_scheme(host: str) -> bool:
    """Whether gRPC takes `host:port` for something else than a host and a port."""
    return host.lower() in _SCHEMES


# go-micro's list (util/addr): RFC 1918 and 6598. IPv4 only, as in go-micro's registries.
_PRIVATE = tuple(
    map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
)
# TEST-NET-1 (RFC 5737): nobody has it, so the default route leads there.
_ANYWHERE = "192.0.2.1"
_SIOCGIFADDR = 0x8915  # of Linux (netdevice(7))


def private_host() -> str | None:
    """The first private IPv4 address of this machine; None if it has none.

    The address of the default route comes first: a machine has others that lead nowhere,
    such as a bridge of containers. Nothing is sent.
    """
    candidates = [source_host(_ANYWHERE), *_interface_hosts()]
    return next((host for host in candidates if host is not None and _is_private(host)), None)


def source_host(target: str) -> str | None:
    """The address from which this machine reaches `target`; None if it cannot, or only over loopback.

    The kernel chooses a route; nothing is sent, but a name is looked up.
    """
    try:
        found = socket.getaddrinfo(target, 9, type=socket.SOCK_DGRAM)
    except OSError:
        return None
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as sock:
                sock.connect(address)
                host = str(sock.getsockname()[0])
        except OSError:
            continue
        if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            return host
    return None


def _interface_hosts() -> Iterator[str]:
    """The IPv4 addresses of the interfaces, in the kernel's order."""
    if sys.platform == "linux":
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _, name in socket.if_nameindex():
                request = struct.pack("256s", name.encode()[:15])
                with contextlib.suppress(OSError):  # it has no such address
                    yield socket.inet_ntoa(fcntl.ioctl(sock, _SIOCGIFADDR, request)[20:24])
    else:
        with contextlib.suppress(OSError):
            for *_, address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET):
                yield str(address[0])


def _is_private(host: str) -> bool:
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return any(address in network for network in _PRIVATE)
