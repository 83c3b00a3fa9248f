"""The network interface on which we speak mdns. Needs ifaddr, which comes with zeroconf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt, listed, shortened
from pymicro.nodes.address import is_ip, join_address, split_address

__all__ = ["Interface", "Place", "place"]

PORT = 5353


@dataclass(frozen=True, slots=True)
class Place:
    """Where the settings want mdns.

    Attributes:
        host: An interface's name, or an address that one has.
        port: The UDP port; everybody else uses 5353.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return self.host if self.port == PORT else join_address(self.host, self.port)


def place(entries: Sequence[str]) -> Place:
    """The place in the entries of `registry_address`; without entries, this machine only.

    Raises:
        ConfigError: The entries name several places, or an impossible one.
    """
    if len(entries) > 1:
        raise ConfigError(
            f"registry_address of registry mdns is one interface, not {len(entries)}: {listed(entries)}"
        )
    entry = entries[0] if entries else ""
    try:
        host, port = split_address(entry, default_port=PORT)
    except ValueError as exc:
        raise _bad(entry, str(exc)) from None
    if not port:
        raise _bad(entry, "0 is no port that others could know")
    if any(char.isspace() or char in "/=@" for char in host):
        raise _bad(entry, f"{excerpt(host)} is no interface")
    return Place(host or "127.0.0.1", port)


def _bad(entry: str, why: str) -> ConfigError:
    return ConfigError(
        f"registry_address of registry mdns: {excerpt(entry)}: {why} "
        "(an interface or its address, such as eth0, 192.168.1.7, [fd00::7] or 127.0.0.1:5354)"
    )


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface as it is now.

    Attributes:
        name: Its name, such as `eth0`.
        index: Its number, as sockets want it.
        address: The address that we use.
        addresses: All its addresses, IPv4 first.
        networks: The networks that it reaches without a router.
        loopback: Whether it reaches this machine only.
    """

    name: str
    index: int
    address: str
    addresses: tuple[str, ...]
    networks: tuple[IPv4Network | IPv6Network, ...]
    loopback: bool

    @classmethod
    def find(cls, host: str) -> Interface:
        """The interface with this name or address.

        Raises:
            LookupError: There is none, or it has no address; the text lists those there are.
        """
        import ifaddr

        listing = []
        wanted = _ip(host) if is_ip(host) else None
        for adapter in ifaddr.get_adapters():
            addresses = [
                (ip.ip if isinstance(ip.ip, str) else ip.ip[0], ip.network_prefix) for ip in adapter.ips
            ]
            if not addresses or adapter.index is None:
                continue
            # IPv4 first: go-micro finds nodes by their A records only.
            addresses.sort(key=lambda item: (":" in item[0], ip_address(item[0]).is_link_local))
            known = [ip_address(address) for address, _ in addresses]
            loopback = any(address.is_loopback for address in known)
            listing.append(f"{adapter.name} ({', '.join(map(str, known))})")
            if wanted is None:
                found = host == adapter.name
            else:
                # The loopback interface has all of 127.0.0.0/8.
                found = wanted in known or (loopback and wanted.is_loopback and wanted.version == 4)
            if found:
                return cls(
                    adapter.name,
                    adapter.index,
                    addresses[0][0] if wanted is None else str(wanted),
                    tuple(address for address, _ in addresses),
                    tuple(ip_interface(f"{address}/{prefix}").network for address, prefix in addresses),
                    loopback,
                )
        what = (
            f"no interface has the address {shortened(host)}"
            if wanted is not None
            else f"no interface {shortened(host)}"
        )
        raise LookupError(f"{what} (with addresses there are: {listed(listing) or 'none'})")

    def reaches(self, address: str) -> bool:
        """Whether a packet from `address` came without a router: mdns goes no further (RFC 6762 11)."""
        if self.loopback:
            return True
        source = _ip(address)
        near = [
            network
            for network in self.networks
            # A tunnel's network says nothing about its other end.
            if network.version == source.version and network.num_addresses > 1
        ]
        return not near or source.is_link_local or any(source in network for network in near)


def _ip(address: str) -> IPv4Address | IPv6Address:
    # The zone of fe80::1%eth0 only names the interface.
    return ip_address(address.partition("%")[0])
