"""Where etcd is: the setting `registry_address`."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt, listed, shortened, without_user
from pymicro.discovery.registries.etcd.tls_files import TlsFiles
from pymicro.nodes.address import is_dns_name, is_ip, join_address, split_address

if TYPE_CHECKING:
    from pymicro.settings.config import Config

__all__ = ["Endpoints", "find_endpoints", "is_loopback", "learned"]

_PORT = 2379
# etcd advises seven members at most.
_MOST_LEARNED = 16
_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104, RUF100
_DEFAULT = f"127.0.0.1:{_PORT}"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The members of one etcd.

    Attributes:
        addresses: `host:port` of each.
        tls: The TLS files; None without TLS.
        loopback: Whether all of them are on this machine.
    """

    addresses: tuple[str, ...]
    tls: TlsFiles | None
    loopback: bool

    def describe(self) -> str:
        """The first few addresses, for messages."""
        shown = ", ".join(self.addresses[:3])
        more = len(self.addresses) - 3
        return f"{shown} and {more} more" if more > 0 else shown


def find_endpoints(config: Config) -> Endpoints:
    """The endpoints in the settings; nothing is read or asked.

    Raises:
        ConfigError: The settings cannot be used, or contradict each other.
    """
    entries = config.registry_address or (_DEFAULT,)
    found = [_endpoint(entry) for entry in entries]
    schemes = {scheme for scheme, _, _ in found if scheme}
    if len(schemes) > 1:
        raise ConfigError(
            f"registry_address of registry etcd has both http:// and https:// ({listed(entries)}): "
            "all members of one etcd are reached the same way"
        )
    tls = _tls(config, schemes)
    addresses = dict.fromkeys(join_address(host, port) for _, host, port in found)
    return Endpoints(tuple(addresses), tls, all(is_loopback(host) for _, host, _ in found))


def learned(urls: Iterable[str], endpoints: Endpoints) -> tuple[str, ...]:
    """The addresses that members have for clients, as far as this process can use them.

    Some name an address that is another one to each client (0.0.0.0, or 127.0.0.1 where the rest of
    the cluster is elsewhere), and some are for clients with TLS while we have none.

    Args:
        urls: Of the member list; nobody has checked them.
        endpoints: What the settings say.
    """
    found = []
    for url in urls:
        try:
            scheme, host, port = _endpoint(url)
        except ConfigError:
            continue
        nowhere = host in _ANYWHERE or (is_loopback(host) and not endpoints.loopback)
        if (scheme == "https") is (endpoints.tls is not None) and not nowhere:
            found.append(join_address(host, port))
    return tuple(dict.fromkeys(found))[:_MOST_LEARNED]


def _tls(config: Config, schemes: Iterable[str]) -> TlsFiles | None:
    files = TlsFiles(config.registry_tls_ca, config.registry_tls_cert, config.registry_tls_key)
    given = [
        name for name in ("registry_tls_ca", "registry_tls_cert", "registry_tls_key") if getattr(config, name)
    ]
    if bool(files.cert) != bool(files.key):
        lacking = "registry_tls_key" if files.cert else "registry_tls_cert"
        raise ConfigError(f"{' and '.join(given)} without {lacking}: certificate and key belong together")
    if "http" in schemes and given:
        raise ConfigError(
            f"registry_address of registry etcd says http:// and {' and '.join(given)} asks for TLS: "
            "write https://, or leave the scheme out"
        )
    return files if given or "https" in schemes else None


def _endpoint(entry: str) -> tuple[str, str, int]:
    """Scheme (may be empty), host and port of one entry."""
    head, separator, rest = entry.partition("://")
    scheme, text = (head.lower(), rest.removesuffix("/")) if separator else ("", entry)
    if separator and scheme not in ("http", "https"):
        raise _bad(entry, f"{head}:// is neither http:// nor https://")
    if "@" in text:
        raise _bad(entry, "a user is given by registry_user and registry_password")
    if any(char in text for char in "/?#"):
        raise _bad(entry, "there is something behind host and port")
    try:
        host, port = split_address(text, default_port=_PORT)
    except ValueError as exc:
        raise _bad(entry, str(exc)) from None
    if not host:
        raise _bad(entry, "the host is missing")
    if not port:
        raise _bad(entry, "0 is no port that can be reached")
    literal = ":" in host
    if not (is_ip(host) if literal else is_dns_name(host)) or (text.startswith("[") and not literal):
        raise _bad(entry, f"{excerpt(host)} is no host")
    return scheme, host, port


def _bad(entry: str, why: str) -> ConfigError:
    return ConfigError(
        f"registry_address of registry etcd: {excerpt(without_user(entry))}: {shortened(why)} "
        "(each entry is host or host:port, with or without http:// or https://, such as 10.0.0.1:2379)"
    )


def is_loopback(host: str) -> bool:
    """Whether `host` is an address of this machine that only this machine can use."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
