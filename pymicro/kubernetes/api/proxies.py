"""Which proxy leads to the API server: the rules of kubectl, which are Go's `http.ProxyFromEnvironment`."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit, urlunsplit

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt, shortened
from pymicro.settings.config import in_pod

__all__ = ["check_proxy", "is_loopback", "proxy_for", "without_password"]


def proxy_for(url: str, environ: Mapping[str, str]) -> str:
    """The URL of the proxy that the environment names for `url`; empty for none.

    `HTTPS_PROXY` or `HTTP_PROXY`, by the scheme of `url`, unless `NO_PROXY` excepts its host;
    never for this machine itself. And never in a pod: there the variables are meant for the
    world outside, and a proxy out there does not know the cluster's addresses.

    Raises:
        ConfigError: The variable names no proxy that can be used.
    """
    target = urlsplit(url)
    host = (target.hostname or "").lower()
    name = f"{target.scheme}_proxy".upper()
    given = _variable(name, environ)
    if not given or in_pod(environ) or is_loopback(host):
        return ""
    port = target.port or (443 if target.scheme == "https" else 80)
    rules = (rule.strip().lower() for rule in _variable("NO_PROXY", environ).split(","))
    if any(_excepts(rule, host, port) for rule in rules if rule):
        return ""
    return check_proxy(given if "://" in given else f"http://{given}", name)


def _variable(name: str, environ: Mapping[str, str]) -> str:
    return environ.get(name) or environ.get(name.lower()) or ""


def _excepts(rule: str, host: str, port: int) -> bool:
    """Whether one entry of `NO_PROXY` is about `host:port`.

    An entry is `*`, an address, a range of addresses (10.0.0.0/8), or a name, which stands for
    what is below it too (`.name` and `*.name` for that only). All but ranges may have a port.
    """
    if rule == "*":
        return True
    try:
        return ip_address(host) in ip_network(rule, strict=False)
    except ValueError:
        pass  # one of the two is no address
    try:
        given = urlsplit(f"//{rule}")
        name, wanted = given.hostname or "", given.port
    except ValueError:
        return False
    if not name or wanted not in (None, port) or (rule.startswith("[") and wanted is None):
        return False
    name = name.removeprefix("*")
    try:
        return ip_address(host) == ip_address(name)
    except ValueError:
        return not _is_address(host) and (
            host == name or host.endswith(name if name.startswith(".") else f".{name}")
        )


def _is_address(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether `host`, of a URL, is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_proxy(url: str, where: str) -> str:
    """`url`, if it is one of a proxy that we can ask through.

    Args:
        url: What was given.
        where: Where it was given, for the message.

    Raises:
        ConfigError: It is none.
    """
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{where}: {excerpt(without_password(url))} is no URL of a proxy")
    if parts.scheme not in ("http", "https"):
        raise ConfigError(
            f"{where}: the proxy {excerpt(without_password(url))} cannot be used: pymicro speaks to proxies "
            f"over http:// and https://, not {shortened(parts.scheme, 20)}://"
        )
    return url


def without_password(url: str) -> str:
    """A proxy's URL for messages: without user and password."""
    scheme, place, *rest = urlsplit(url) if url.count("[") == url.count("]") else ("", "", "", "", "")
    return urlunsplit((scheme, place.rpartition("@")[2], *rest))
