"""The admin port of a service or a client: from settings to a socket, and what its pages show."""

from __future__ import annotations

import platform
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol

from pymicro._version import __version__
from pymicro.base.errors import ConfigError, StartError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.base.recorder import Recorder
from pymicro.base.watches import Watches
from pymicro.calling.connections.views import counts_of, leaving, nodes_of
from pymicro.nodes.address import is_ip, split_address
from pymicro.runtime.base_client import BaseClient
from pymicro.settings.config import Config, in_pod
from pymicro.telemetry.admin import AdminPort, WritePage
from pymicro.telemetry.collector import Collector
from pymicro.telemetry.exposition import Exposition
from pymicro.telemetry.http_server import listen
from pymicro.telemetry.json_page import Rows, json_page
from pymicro.telemetry.stats import stats_page

if TYPE_CHECKING:
    from pymicro.calling.connections.target import Target

__all__ = ["AdminAddress", "Served", "admin_address", "opened", "port_for_others"]

log = logger("pymicro.admin")

OFF = "off"
# OpenTelemetry's port of a Prometheus exporter ("Environment Variable Specification").
POD_PORT = 9464
# What to read where nothing is counted.
OFF_TEXT = "nothing is counted here: the setting `metrics` is off"


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """Where the admin port is to listen.

    Attributes:
        host: The host; empty for all addresses.
        port: The port; 0 for any free one.
        given: Whether somebody set it, so that another one would not do.
    """

    host: str
    port: int
    given: bool


class Served(Protocol):
    """The serving end, as the admin port shows it."""

    @property
    def broken(self) -> bool:
        """Whether it serves nobody any more, for good."""
        ...

    @property
    def started(self) -> bool:
        """Whether the start is over."""
        ...

    @property
    def serving(self) -> bool:
        """Whether health says SERVING."""
        ...

    @property
    def registered(self) -> bool:
        """Whether its node is registered."""
        ...

    def to_json(self) -> Mapping[str, Any]:
        """Name, version, id and address of its node, and whether it is registered."""
        ...


def admin_address(config: Config, registry: str, *, service: bool) -> AdminAddress | None:
    """The address in the settings, or the one that fits the place; None for no admin port.

    Args:
        config: All settings.
        registry: The name of the registry in use.
        service: Whether it is for a service. A client that is none has an admin port only if
            somebody sets it: a script, and every command, is such a client.

    Raises:
        ConfigError: The setting is no address.
    """
    text = config.admin_address
    if text.lower() == OFF:
        return None
    if text:
        try:
            host, port = split_address(text)
        except ValueError as exc:
            raise ConfigError(
                f"admin_address {excerpt(text)}: {exc} (host:port, such as 127.0.0.1:9464, or off)"
            ) from None
        return AdminAddress(host, port, given=True)
    if not service:
        return None
    # Nodes of `memory` are of one process, which may hold many services: a test, most of the time.
    if registry == "memory":
        return AdminAddress("127.0.0.1", 0, given=False)
    if in_pod():
        return AdminAddress("0.0.0.0", POD_PORT, given=False)  # noqa: S104, RUF100
    if registry == "local" or (registry == "mdns" and _on_loopback(config.registry_address)):
        return AdminAddress("127.0.0.1", 0, given=False)
    return None


def _on_loopback(entries: Sequence[str]) -> bool:
    """Whether these entries of `registry_address` keep mdns on this machine, which it does without any."""
    if not entries:
        return True
    try:
        host = split_address(entries[0], default_port=0)[0]
        return not host or ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return entries[0] in ("lo", "lo0")


def port_for_others(port: AdminPort, address: str) -> int | None:
    """The port to tell of in a node's record; None if who reaches the node cannot reach it.

    Args:
        port: The admin port.
        address: The node's.
    """
    host, number = port.bound
    own = split_address(address, default_port=0)[0]
    if not is_ip(own):
        return number if ip_address(host).is_unspecified else None
    bound, node = ip_address(host.partition("%")[0]), ip_address(own.partition("%")[0])
    if bound.is_unspecified:
        # [::] listens for both families, as `listen` makes it.
        return number if bound.version == 6 or node.version == 4 else None
    return number if bound == node else None


@asynccontextmanager
async def opened(
    address: AdminAddress | None,
    client: BaseClient,
    *,
    served: Served | None = None,
    calling: BaseClient | None = None,
) -> AsyncIterator[AdminPort | None]:
    """Listen and answer, from now until the context is left.

    Args:
        address: Where; None opens nothing.
        client: Counts what is served, and knows the registry.
        served: The serving end; None for a client that is no service.
        calling: The client that makes calls, if that is another one.

    Raises:
        ConfigError: The host does not resolve.
        StartError: The port is taken, and somebody set it.
    """
    config = client.config
    if address is None:
        if config.ready_after:
            log.warning("ready_after changes nothing here: there is no admin port (admin_address)")
        yield None
        return
    calling = calling or client
    try:
        listening = await listen(address.host, address.port, "admin_address")
    except StartError as exc:
        if address.given:
            raise
        # A pod that runs two services, or one that listens on 9464 for a purpose of its own: nobody asked
        # for this port, so it must not end the service.
        listening = await listen(address.host, 0, "admin_address")
        log.warning(
            "%s. It listens on port %d instead; probes and scrapers have to be told, or set admin_address",
            exc,
            listening.getsockname()[1],
        )

    def ready() -> list[str]:
        why = [] if served is None or served.serving else ["health says NOT_SERVING"]
        return why + [f"waiting for the first nodes of {service}" for service in calling.missing]

    def started() -> list[str]:
        return [] if served is None or served.started else ["it is starting"]

    def live() -> list[str]:
        return ["grpc's accept loop broke: it serves nobody any more"] if served and served.broken else []

    recorder = _both(client, calling)
    pages: dict[str, WritePage | str] = {
        "/nodes": json_page(lambda: _nodes(calling, served)),
        "/stats": OFF_TEXT,
        "/metrics": OFF_TEXT,
    }
    if recorder is not None:
        pages["/stats"] = stats_page(config.server_name if served is not None else "", recorder)
        pages["/metrics"] = _metrics(recorder, calling, served)
    title = f"{config.server_name or 'a client'} {config.server_version}".rstrip()
    title = f"{title} (pymicro {__version__})"
    async with AdminPort(listening, title, live=live, started=started, ready=ready, pages=pages) as port:
        yield port


def _both(client: BaseClient, calling: BaseClient) -> Recorder | None:
    """What is served and what is called, as one; None if nothing is counted."""
    if client.recorder is None or calling.recorder is None or client is calling:
        return client.recorder
    recorder = Recorder()
    recorder.server, recorder.lag = client.recorder.server, client.recorder.lag
    recorder.registry_errors = client.recorder.registry_errors
    recorder.targets = calling.recorder.targets
    return recorder


def _metrics(recorder: Recorder, client: BaseClient, served: Served | None) -> WritePage | str:
    """The page `/metrics`, or why there is none."""

    def ages() -> Mapping[str, float]:
        directory = client.directory
        states = directory.states() if directory is not None else {}
        return {service: state.age for service, state in states.items() if state.age is not None}

    info = {
        "version": __version__,
        "grpcio": _grpcio(),
        "python": platform.python_version(),
        "registry": client.registry.name,
        "balancer": client.config.balancer,
    }
    registered = (lambda: served.registered) if served is not None else None

    def relists() -> int | None:
        watches = _watches(client)
        return watches.relists if watches is not None else None

    collector = Collector(
        recorder,
        info=info,
        ages=ages,
        relists=relists,
        nodes=lambda: counts_of(client.core.targets),
        registered=registered,
        identity=client.identity,
    )
    try:
        return Exposition(collector.collect).write
    except ConfigError as exc:
        log.info("no /metrics: %s", exc)
        return str(exc)


def _grpcio() -> str:
    try:
        return version("grpcio")
    except PackageNotFoundError:  # put there by other means than a package
        return "unknown"


def _nodes(client: BaseClient, served: Served | None) -> Mapping[str, Any]:
    registry, watches = client.registry, _watches(client)
    return {
        "service": served.to_json() if served is not None else None,
        "time": time.time(),
        "registry": {
            "name": registry.name,
            "where": registry.describe(),
            "relists": watches.relists if watches is not None else None,
            "watches": Rows(record.to_json() for record in (watches.records if watches is not None else ())),
            "watched": Rows(_watched(client)),
        },
        "targets": Rows(_target(client, target) for target in client.core.targets),
        "leaving": leaving(client.core.leaving),
    }


def _watches(client: BaseClient) -> Watches | None:
    """How the registry's watches fare, if it tells."""
    found = getattr(client.registry, "watches", None)
    return found if isinstance(found, Watches) else None


def _watched(client: BaseClient) -> Iterator[Mapping[str, Any]]:
    directory = client.directory
    if directory is None:
        return
    for service, state in directory.states().items():
        yield {
            "service": service,
            "nodes": len(state.nodes) if state.nodes is not None else None,
            "age_seconds": _rounded(state.age),
            "error": state.error,
            "failing_seconds": _rounded(state.failing),
        }


def _target(client: BaseClient, target: Target) -> Mapping[str, Any]:
    directory = client.directory if target.selector.uses_registry else None
    state = directory.state(target.service) if directory is not None else None
    given, used = target.given, target.chooser.used
    age = state.age if state is not None else None
    if age is None and given is not None:
        age = target.loop.time() - target.taken
    return {
        "service": target.service,
        "filter": target.filter.hidden() or None,
        "selector": target.selector.name,
        "source": target.describe(),
        "known": len(given) if given is not None else None,
        "chosen_from": len(target.nodes) if target.nodes is not None else None,
        "called": len(used),
        "age_seconds": _rounded(age),
        "error": (state.error if state is not None else None) or target.error or None,
        "panic": target.chooser.panicking,
        "nodes": Rows(node.to_json() for node in nodes_of(target)),
    }


def _rounded(seconds: float | None) -> float | None:
    return round(seconds, 3) if seconds is not None else None
