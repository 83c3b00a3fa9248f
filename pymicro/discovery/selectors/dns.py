"""Selector `dns`: a service's nodes are the addresses that the DNS gives for it.

| service name | asked for |
|---|---|
| `greeter.example.com:8080`, `[::1]:8080` | A and AAAA of the host |
| `greeter` | SRV `_greeter._tcp.<domain>`, then A and AAAA of its targets |
| `_grpc._tcp.greeter.default.svc.cluster.local` | SRV of exactly that name |

go-micro does the same, and its default domain is `local` too. go-micro has an option in
code for the domain; here it is `DNS_SELECTOR_DOMAIN_NAME` in the environment, beside the
static selector's variables.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymicro.base.backoff import Backoff
from pymicro.base.errors import PluginError, RegistryError
from pymicro.nodes.address import is_dns_name, is_ip, join_address, split_address
from pymicro.nodes.node import Node, NodeSet

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

    from pymicro.discovery.selector import NodeSource
    from pymicro.settings.config import Config

__all__ = ["DnsSelector"]

log = logging.getLogger("pymicro.selector.dns")

DOMAIN_VARIABLE = "DNS_SELECTOR_DOMAIN_NAME"
DEFAULT_DOMAIN = "local"

# A resolver library gives up by itself, but only after 10 to 30 s.
_TIMEOUT = 10.0

# glibc's error for "the name is there, but has no address"; Python has it on some platforms.
_NOTHING = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))

Resolve = Callable[[str, int], Awaitable[Iterable[str]]]


def _no_name(service: str) -> RegistryError:
    return RegistryError(
        f"selector dns asks the DNS for a service by its name, and {service!r} is no DNS name "
        "(letters, digits and - in parts of at most 63, with dots between them): "
        "rename the service, or use --selector registry"
    )


async def resolve_host(host: str, port: int) -> list[str]:
    """The IPv4 and IPv6 addresses of `host`; none if the name does not exist.

    Raises:
        OSError: The resolver could not be asked, or had no answer.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as exc:
        if exc.errno in _NOTHING:
            return []
        raise
    return [str(address[0]) for *_, address in found]


def default_resolver() -> Resolver:
    """A resolver of dnspython's, configured as the system is.

    Raises:
        PluginError: dnspython is not installed.
        RegistryError: The system names no DNS server.
    """
    try:
        from dns.asyncresolver import Resolver
        from dns.exception import DNSException
    except ImportError as exc:
        raise PluginError(
            "selector dns needs dnspython to look up SRV records: pip install 'pymicro-grpc[dns]' "
            "(a service named host:port needs none)"
        ) from exc
    try:
        return Resolver()
    except DNSException as exc:
        raise RegistryError(f"selector dns: {exc}") from exc


@dataclass(slots=True)
class _Known:
    """The results of a service's last look-ups, for messages."""

    count: int | None = None
    at: float = 0.0
    error: str = ""


class DnsSelector:
    """Nodes by A, AAAA and SRV records, looked up again every `interval` seconds.

    `refresh` makes the next look-up come sooner, at most once a second. A name that does
    not exist has no nodes; if the resolver fails, the last set stands. Only SRV records of
    the best priority count, and their weights do not: the balancer chooses.

    Args:
        config: As every selector has it; not read.
        source: As every selector has it; not used.
        environ: The environment; `DNS_SELECTOR_DOMAIN_NAME` is read when the selector is built.
        interval: Seconds between look-ups, give or take a tenth.
        least: Least seconds between look-ups, whatever `refresh` asks for.
        resolve: Looks up the addresses of a host and port.
        resolver: Makes dnspython's resolver for SRV records. Each look-up makes a new
            one, because the system's configuration may have changed.
    """

    name = "dns"
    uses_registry = False

    def __init__(
        self,
        config: Config,
        source: NodeSource,
        *,
        environ: Mapping[str, str] | None = None,
        interval: float = 30.0,
        least: float = 1.0,
        resolve: Resolve = resolve_host,
        resolver: Callable[[], Resolver] = default_resolver,
    ) -> None:
        environ = os.environ if environ is None else environ
        self._domain = environ.get(DOMAIN_VARIABLE, "").strip().strip(".") or DEFAULT_DOMAIN
        self._interval = interval
        self._least = least
        self._resolve = resolve
        self._resolver = resolver
        self._nudges: dict[str, set[asyncio.Event]] = {}
        self._known: dict[str, _Known] = {}

    def _srv_name(self, service: str) -> str:
        return service if service.startswith("_") else f"_{service}._tcp.{self._domain}"

    def describe(self, service: str) -> str:
        """`DNS name greeter.example.com:8080 had 0 addresses 2.1 s ago`."""
        what = f"name {service}" if ":" in service else f"SRV record {self._srv_name(service)}"
        known = self._known.get(service)
        text = f"DNS {what}"
        if known is not None and known.count is not None:
            noun = "address" if known.count == 1 else "addresses"
            text += f" had {known.count} {noun} {time.monotonic() - known.at:.1f} s ago"
        if known is not None and known.error:
            text += f", last failed with: {known.error}"
        return text

    def refresh(self, service: str) -> None:
        """Look `service` up again soon, if it is watched."""
        for nudge in self._nudges.get(service, ()):
            nudge.set()

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        """The nodes in the DNS, at once and after each look-up.

        Raises:
            RegistryError: `service` is no name to look up, or the first look-up failed.
            PluginError: This needs an SRV record, and dnspython is not installed.
        """
        nudge = asyncio.Event()
        known = self._known.setdefault(service, _Known())
        self._nudges.setdefault(service, set()).add(nudge)
        backoff = Backoff(2 * self._least, self._interval, floor=self._least)
        last: NodeSet | None = None
        try:
            while True:
                nudge.clear()
                pause = self._interval * random.uniform(0.9, 1.1)
                try:
                    nodes = await self._look_up(service)
                except RegistryError as exc:
                    first_failure, known.error = not known.error, str(exc)
                    if last is None:
                        raise
                    if first_failure:
                        log.warning("%s: %s; keeping %d nodes, trying again", service, exc, len(last))
                    pause = backoff.next()
                else:
                    if known.error:
                        log.info("%s: the DNS answers again", service)
                    backoff.reset()
                    known.count, known.at, known.error = len(nodes), time.monotonic(), ""
                    last = nodes
                    yield nodes
                await asyncio.sleep(self._least)
                try:
                    async with asyncio.timeout(max(0.0, pause - self._least)):
                        await nudge.wait()
                except TimeoutError:
                    pass
        finally:
            nudges = self._nudges[service]
            nudges.discard(nudge)
            if not nudges:
                del self._nudges[service], self._known[service]

    async def _look_up(self, service: str) -> NodeSet:
        try:
            async with asyncio.timeout(_TIMEOUT):
                if ":" in service:
                    hosts = [self._host_and_port(service)]
                else:
                    hosts = await self._srv(service)
                # Exceptions are results here: gather would raise the first and leave the rest running.
                found = await asyncio.gather(
                    *(self._resolve(host, port) for host, port in hosts), return_exceptions=True
                )
            addresses = []
            for (_, port), ips in zip(hosts, found, strict=True):
                if isinstance(ips, BaseException):
                    raise ips
                addresses += [join_address(ip, port) for ip in ips]
        except TimeoutError as exc:
            raise RegistryError(f"the DNS did not answer for {service!r} within {_TIMEOUT:g} s") from exc
        except OSError as exc:
            raise RegistryError(f"the DNS cannot be asked for {service!r}: {exc.strerror or exc}") from exc
        except UnicodeError as exc:
            # The target of an SRV record: Python first encodes it for the DNS.
            raise RegistryError(f"the DNS names a host for {service!r} that is no name: {exc}") from exc
        return NodeSet.of(Node(id=address, address=address, service=service) for address in addresses)

    def _host_and_port(self, service: str) -> tuple[str, int]:
        try:
            host, port = split_address(service)
        except ValueError as exc:
            raise RegistryError(f"selector dns: {service!r} is no host:port: {exc}") from exc
        if not port:
            raise RegistryError(f"selector dns: {service!r} has port 0, which cannot be dialled")
        if not (is_ip(host) or is_dns_name(host)):
            raise _no_name(service)
        return host, port

    async def _srv(self, service: str) -> list[tuple[str, int]]:
        name = self._srv_name(service)
        if not service or not is_dns_name(name):
            raise _no_name(service)
        resolver = self._resolver()  # its error says what to install; those of the imports below would not
        import dns.exception
        import dns.name
        import dns.resolver

        try:
            # The final dot keeps the system's search domains out.
            answer = await resolver.resolve(name.removesuffix(".") + ".", "SRV")
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except dns.exception.DNSException as exc:
            raise RegistryError(f"the DNS cannot be asked for SRV {name}: {exc}") from exc
        best = min(record.priority for record in answer)
        return [
            (record.target.to_text(omit_final_dot=True), record.port)
            for record in answer
            # RFC 2782: the target "." says that there is no such service.
            if record.priority == best and record.target != dns.name.root and record.port
        ]
