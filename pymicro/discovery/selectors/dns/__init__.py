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
import os
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymicro.base.backoff import Backoff
from pymicro.base.errors import ConfigError, RegistryError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.discovery.selectors.dns.lookups import Resolve, ServiceRecords, SystemHosts, default_resolver
from pymicro.nodes.address import is_dns_name, is_ip, join_address, split_address
from pymicro.nodes.node import Node, NodeSet

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

    from pymicro.discovery.selector import NodeSource
    from pymicro.settings.config import Config

__all__ = ["DnsSelector"]

log = logger("pymicro.selector.dns")

DOMAIN_VARIABLE = "DNS_SELECTOR_DOMAIN_NAME"
DEFAULT_DOMAIN = "local"

# A resolver library gives up by itself, but only after 10 to 30 s.
_TIMEOUT = 10.0

# Records that are good for less are looked up no sooner: CoreDNS gives a service's 5 s.
_LEAST_TTL = 5.0


def _no_name(service: str) -> RegistryError:
    return RegistryError(
        f"selector dns asks the DNS for a service by its name, and {excerpt(service)} is no DNS name "
        "(letters, digits and - in parts of at most 63, with dots between them): "
        "rename the service, or use --selector registry"
    )


@dataclass(slots=True)
class _Known:
    """The results of a service's last look-ups, for messages."""

    count: int | None = None
    at: float = 0.0
    error: str = ""


class DnsSelector:
    """Nodes by A, AAAA and SRV records, looked up again every `interval` seconds.

    SRV records that are good for less are looked up again when their time is over, and
    `refresh` makes the next look-up come sooner, at most once a second. A name has no nodes
    if the name server says so for IPv4 and IPv6; whatever else happens, the last set stands.
    Only SRV records of the best priority count (RFC 2782), and their weights do not: no balancer here
    takes any, since p2c goes by how nodes answer. Where the DNS of Kubernetes makes the records, all
    pods of a headless Service have the same priority and weight.

    Args:
        config: As every selector has it; not read.
        source: As every selector has it; not used.
        environ: The environment; `DNS_SELECTOR_DOMAIN_NAME` is read when the selector is built.
        interval: Seconds between look-ups, give or take a tenth.
        least: Least seconds between look-ups, whatever `refresh` asks for.
        resolve: Looks up the addresses of a host and port; by the system if None.
        resolver: Makes dnspython's resolver for SRV records. Each look-up makes a new
            one, because the system's configuration may have changed.
    """

    name = "dns"
    uses_registry = False
    tells_health = False

    def __init__(
        self,
        config: Config,
        source: NodeSource,
        *,
        environ: Mapping[str, str] | None = None,
        interval: float = 30.0,
        least: float = 1.0,
        resolve: Resolve | None = None,
        resolver: Callable[[], Resolver] = default_resolver,
    ) -> None:
        environ = os.environ if environ is None else environ
        self._domain = environ.get(DOMAIN_VARIABLE, "").strip().strip(".") or DEFAULT_DOMAIN
        self._interval = interval
        self._least = least
        self._resolve = resolve or SystemHosts()
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
                try:
                    nodes, good = await self._look_up(service)
                except RegistryError as exc:
                    first_failure, known.error = not known.error, str(exc)
                    if last is None:
                        raise
                    if first_failure:
                        log.warning("%s: %s; keeping %d nodes, trying again", service, exc, len(last))
                    pause = backoff.next()
                else:
                    pause = min(self._interval, good) * random.uniform(0.9, 1.1)
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

    async def _look_up(self, service: str) -> tuple[NodeSet, float]:
        """The nodes, and for how many seconds they are good.

        Raises:
            RegistryError: The name server did not say what there is.
            ConfigError: A package is missing.
        """
        ttl: float | None = None
        try:
            async with asyncio.timeout(_TIMEOUT):
                if ":" in service:
                    host, port = self._host_and_port(service)
                    found = [(ip, port) for ip in await self._resolve(host, port)]
                else:
                    name = self._srv_name(service)
                    if not service or not is_dns_name(name):
                        raise _no_name(service)
                    records = await ServiceRecords.ask(name, self._resolver)
                    found, ttl = list(records.addresses), records.ttl
        except (ConfigError, RegistryError):
            raise
        except TimeoutError as exc:
            raise RegistryError(
                f"the DNS did not answer for {excerpt(service)} within {_TIMEOUT:g} s"
            ) from exc
        except OSError as exc:
            raise RegistryError(
                f"the DNS cannot be asked for {excerpt(service)}: {exc.strerror or exc}"
            ) from exc
        except Exception as exc:
            # No thread to ask in, say: whatever it is, the last set stands.
            raise RegistryError(
                f"the DNS cannot be asked for {excerpt(service)}: {excerpt(exc, 1000)}"
            ) from exc
        nodes = NodeSet.of(
            Node(id=address, address=address, service=service)
            for address in dict.fromkeys(join_address(ip, port) for ip, port in found)
        )
        return nodes, self._interval if ttl is None else max(ttl, _LEAST_TTL)

    def _host_and_port(self, service: str) -> tuple[str, int]:
        try:
            host, port = split_address(service)
        except ValueError as exc:
            raise RegistryError(f"selector dns: {excerpt(service)} is no host:port: {exc}") from exc
        if not port:
            raise RegistryError(f"selector dns: {excerpt(service)} has port 0, which cannot be dialled")
        if not (is_ip(host) or is_dns_name(host)):
            raise _no_name(service)
        return host, port
