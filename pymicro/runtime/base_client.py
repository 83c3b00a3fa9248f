"""From settings to plug-ins: the calling half of a `Service`, and all of a `Client`."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict

from pymicro.base.closing import closing
from pymicro.base.copies import NotCopied
from pymicro.base.durations import format_duration, time_limit
from pymicro.base.errors import ConfigError, PymicroError, RegistryError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.base.recorder import Recorder
from pymicro.calling.call.channel_state import UNSET, Unset
from pymicro.calling.call.layers import layers_of
from pymicro.calling.channel import Channel
from pymicro.calling.connections.client_tls import NAMESPACE, ClientTls
from pymicro.calling.connections.core import ClientCore
from pymicro.calling.connections.method import Marks
from pymicro.calling.connections.options import ChannelOptions
from pymicro.calling.connections.target import Filter
from pymicro.discovery.directory import Directory
from pymicro.discovery.fixed import FixedNodes
from pymicro.identity.files import CertificateFiles
from pymicro.identity.keeper import IdentityKeeper
from pymicro.nodes.node import Node, NodeSet
from pymicro.runtime.first_sets import FirstSets
from pymicro.settings import plugins
from pymicro.settings.config import Config, in_pod, unknown_environment, without_effect
from pymicro.telemetry.tracing import find_tracing

if TYPE_CHECKING:
    import grpc

    from pymicro.discovery.registry import Registry
    from pymicro.discovery.selector import Selector

__all__ = ["BaseClient", "Instances", "Settings", "split_instances"]

log = logger("pymicro")


class Settings(TypedDict, total=False):
    """Keywords of `Service` and `Client`: every setting of `pymicro.settings.config.Config`.

    The name of a plug-in is a default that flags and environment override; an
    instance is final. Durations are seconds, sizes bytes.
    """

    server_name: str
    server_version: str
    server_id: str
    server_metadata: Mapping[str, str]
    server_address: str
    server_advertise: str
    registry: str | Registry
    registry_address: str | Sequence[str]
    registry_namespace: str | Sequence[str]
    registry_advertise: str
    registry_user: str
    registry_password: str
    registry_tls_ca: str
    registry_tls_cert: str
    registry_tls_key: str
    register_ttl: int
    register_interval: int
    selector: str | Selector
    balancer: str
    client_request_timeout: float
    client_first_wait: float
    client_retries: int
    outlier_ejection: str
    subset_size: int
    zone: str
    slow_start: float
    keepalive: float
    forward_metadata: str | Sequence[str]
    tls_cert: str
    tls_key: str
    tls_ca: str
    tls_dir: str
    tls_bundle: str
    tls_client_certificates: str
    tls_plain_address: str
    tls_server_name: str
    client_tls: str
    allow: str | Sequence[str]
    authorization: str
    reflection: str
    max_message_size: int
    max_sent_message_size: int | None
    max_connection_age: float
    max_concurrent_calls: int
    handler_threads: int
    drain_delay: float | None
    stop_grace: float
    log_level: str
    log_format: str
    access_log: str
    metrics: str
    tracing: str
    admin_address: str
    ready_after: str | Sequence[str]
    config: str
    loop: str
    loop_lag: float
    debug_errors: str
    client_pool_size: int
    client_pool_ttl: float
    client: str
    server: str
    broker: str
    broker_address: str
    transport: str
    transport_address: str
    runtime: str
    profile: str


@dataclasses.dataclass(frozen=True, slots=True)
class Instances:
    """Plug-ins given as objects, which no flag replaces."""

    registry: Registry | None = None
    selector: Selector | None = None


def split_instances(given: Mapping[str, Any]) -> tuple[dict[str, Any], Instances]:
    """Separate the keywords: settings that can be overridden, and plug-ins given as objects.

    Raises:
        ConfigError: A value is neither a name nor such a plug-in.
    """
    values = dict(given)
    instances = {}
    for kind, method in (("registry", "register"), ("selector", "refresh")):
        value = values.get(kind)
        if value is None or isinstance(value, str):
            continue
        if isinstance(value, type) or not (hasattr(value, "watch") and hasattr(value, method)):
            raise ConfigError(f"{kind}= in code: {excerpt(value)} is neither a {kind}'s name nor a {kind}")
        instances[kind] = values.pop(kind)
    return values, Instances(**instances)


def _pair(option: Any) -> Any:
    """An option as a tuple: those of a channel have to be hashable."""
    return tuple(option) if isinstance(option, list) else option


class BaseClient(NotCopied):
    """Finds nodes and calls them: registry, directory, selector, balancers and channels.

    Channels may be made at once. Before they are used, `equip` it with a
    configuration and enter it.
    """

    def __init__(
        self,
        instances: Instances,
        interceptors: Sequence[Any] = (),
        options: Sequence[tuple[str, Any]] = (),
        compression: grpc.Compression | None = None,
    ) -> None:
        self._instances = instances
        self._interceptors = tuple(interceptors)
        self._options = ChannelOptions(tuple(map(_pair, options)), compression)
        self._core = ClientCore()
        self._stack = AsyncExitStack()
        self._equipped: tuple[Config, Registry, Directory, Selector] | None = None
        self._open = False
        self._recorder: Recorder | None = None
        self._identity: IdentityKeeper | None = None
        self._first: FirstSets | None = None

    def equip(self, config: Config, instances: Instances | None = None) -> None:
        """Choose the plug-ins; do no I/O.

        Args:
            config: All settings.
            instances: Plug-ins that replace those which code gave as objects.

        Raises:
            PluginError: A plug-in is unknown or does not load.
            ConfigError: A plug-in cannot use its settings.
        """
        given = self._instances if instances is None else instances
        registry = given.registry or plugins.load(plugins.REGISTRIES, config.registry)(config)
        files = CertificateFiles.of(
            cert=config.tls_cert,
            key=config.tls_key,
            ca=config.tls_ca,
            directory=config.tls_dir,
            bundle=config.tls_bundle,
        )
        self._identity = IdentityKeeper(files) if files is not None else None
        self._recorder = Recorder() if config.metrics == "on" else None
        directory = Directory(registry, recorder=self._recorder)
        selector = given.selector or plugins.load(plugins.SELECTORS, config.selector)(config, directory)
        make_balancer = plugins.load(plugins.BALANCERS, config.balancer)
        make_balancer(config)  # finds a balancer that cannot be made now, not at the first call
        self._equipped = config, registry, directory, selector

        source = registry if selector.uses_registry else selector
        self._core.equip(
            config,
            selector,
            make_balancer,
            self._describe,
            watch_health=not getattr(source, "tells_health", True),
            record=self._recorder,
            tls=ClientTls(config.client_tls, config.tls_server_name, _namespace(config), self._identity),
        )

    @property
    def _parts(self) -> tuple[Config, Registry, Directory, Selector]:
        if self._equipped is None:
            raise PymicroError("the settings are not read yet: call init() or run() first")
        return self._equipped

    @property
    def config(self) -> Config:
        """All settings in force."""
        return self._parts[0]

    @property
    def registry(self) -> Registry:
        """The registry in use."""
        return self._parts[1]

    @property
    def recorder(self) -> Recorder | None:
        """Where calls and nodes are counted; None if `metrics` is off."""
        return self._recorder

    @property
    def identity(self) -> IdentityKeeper | None:
        """Its certificates; None if the settings name none."""
        return self._identity

    @property
    def missing(self) -> Sequence[str]:
        """Services of `ready_after` whose first set of nodes has not come."""
        return self._first.missing if self._first is not None else self.config.ready_after

    @property
    def core(self) -> ClientCore:
        """What its channels share."""
        return self._core

    @property
    def directory(self) -> Directory | None:
        """What the registry said last; None if the selector asks no registry."""
        _, _, directory, selector = self._parts
        return directory if selector.uses_registry else None

    @property
    def selector(self) -> Selector:
        """The selector in use."""
        return self._parts[3]

    async def __aenter__(self) -> Self:
        _, registry, directory, selector = self._parts
        if self._open:
            raise PymicroError("this client is open already")
        _log_settings(
            self.config,
            asked=selector.uses_registry,
            given_registry=self._instances.registry is not None,
        )
        self.find_tracing()
        async with AsyncExitStack() as stack:
            if self._identity is not None:
                await stack.enter_async_context(self._identity)
            if selector.uses_registry:
                await stack.enter_async_context(registry)
                await stack.enter_async_context(directory)
            await stack.enter_async_context(self._core)
            self._first = await stack.enter_async_context(FirstSets(self.config.ready_after, selector.watch))
            self._stack = stack.pop_all()
        self._open = True
        return self

    def find_tracing(self) -> None:
        """Make spans from now on if the program has set up OpenTelemetry."""
        self._core.tracing = find_tracing(self.config.tracing, "client")

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        await self._stack.aclose()

    def channel(
        self,
        service: str,
        *,
        address: str | Iterable[str] | None = None,
        version: str | None = None,
        metadata: Mapping[str, str] | None = None,
        endpoint: str | None = None,
        timeout: float | Unset | None = UNSET,
        idempotent: Iterable[str] = (),
        interceptors: Sequence[Any] = (),
        options: Sequence[tuple[str, Any]] = (),
        compression: grpc.Compression | None = None,
    ) -> Channel:
        """A `grpc.aio.Channel` to a service, for generated stubs.

        Args:
            service: The name under which it registers.
            address: Where the service is, for one that is in no registry: `host:port`, or several of
                them. A host may be a name; calls take each of its addresses in turn. The registry is
                not asked, and everything else is as usual.
            version: Only nodes of exactly this version.
            metadata: Only nodes that have all of these pairs in the registry.
            endpoint: Only nodes with this method ("Greeter.SayHello"), for a method that not
                all versions have; nodes that do not tell their methods count.
            timeout: Seconds a unary call may take if the call gives no timeout; None for
                no limit. `client_request_timeout` if not given.
            idempotent: Methods that may run twice, besides those marked so in their proto
                or at their handler: "/package.Service/Method", or "Method" for the
                methods of that name in all services. Their calls are retried on another
                node even if the first node may have run them.
            interceptors: They run around each call, the first one outermost: functions of
                our own form, or grpc.aio client interceptors. The client's own
                interceptors are outside them.
            options: grpc channel arguments; they override pymicro's and the client's.
            compression: Default compression of calls; the client's if not given.

        This opens nothing before the first call, and needs no event loop.

        Raises:
            ConfigError: An argument that cannot be used; an option that grpc refuses.
        """
        if not isinstance(timeout, Unset):
            try:
                timeout = time_limit(timeout)
            except ValueError as exc:
                raise ConfigError(f"channel {service}: {exc}") from None
        if not isinstance(service, str) or not service:
            raise ConfigError(f"a service's name is a text of at least one character, not {excerpt(service)}")
        fixed = None
        if address is not None:
            if version is not None or metadata or endpoint is not None:
                raise ConfigError(
                    f"channel {service}: version=, metadata= and endpoint= choose among nodes of the "
                    "registry, and nodes of address= have none of these"
                )
            fixed = FixedNodes(service, (address,) if isinstance(address, str) else address)
        chain = (*self._interceptors, *interceptors)
        merged = ChannelOptions(
            (*self._options.options, *map(_pair, options)),
            compression if compression is not None else self._options.compression,
        )
        return Channel(
            self._core,
            service,
            Filter.of(version, metadata, endpoint),
            merged,
            timeout,
            layers_of(chain),
            Marks(idempotent),
            fixed,
        )

    def watch_nodes(self, service: str) -> AsyncIterator[NodeSet]:
        """The nodes of a service, now and after each change; close the iterator when done.

        Raises:
            RegistryError: The source cannot be asked.
        """
        if not self._open:
            raise PymicroError("this client is not open: use it inside `async with`")
        return self.selector.watch(service)

    async def nodes(self, service: str, *, timeout: float | None = None) -> tuple[Node, ...]:
        """The nodes of a service by the first answer, which this waits for.

        Args:
            service: The service's name.
            timeout: Seconds to wait, since a registry that cannot be reached is asked again
                and again; None for no limit.

        Raises:
            RegistryError: The source cannot be asked, or gave no answer in time.
        """
        try:
            async with asyncio.timeout(time_limit(timeout)) as limit:
                async with closing(self.watch_nodes(service)) as watch:
                    async for nodes in watch:
                        return nodes.nodes
        except TimeoutError:
            if not limit.expired() or timeout is None:
                raise
            waited = format_duration(timeout)
            raise RegistryError(
                f"the nodes of {service} are not known after {waited}: {self._describe(service)}"
            ) from None
        return ()

    async def services(self) -> list[str]:
        """Names of the services that have nodes, sorted.

        Raises:
            RegistryError: The registry cannot be asked, or cannot list.
        """
        if not self._open:
            raise PymicroError("this client is not open: use it inside `async with`")
        if not self.selector.uses_registry:
            raise PymicroError(
                f"the selector {self.selector.name} asks no registry, so it cannot list services"
            )
        return await self.registry.services()

    def _describe(self, service: str) -> str:
        """What is known of a service, for messages."""
        _, _, directory, selector = self._parts
        if selector.uses_registry:
            return directory.describe_state(service)
        return selector.describe(service)


def _namespace(config: Config) -> str:
    """The namespace that nodes are looked for in, if it is one and a certificate's name has it."""
    if NAMESPACE not in config.tls_server_name:
        return ""
    if config.registry_namespace:
        only = config.registry_namespace[0] if len(config.registry_namespace) == 1 else ""
        return "" if only == "*" else only
    from pymicro.kubernetes.api.credentials import own_namespace

    return own_namespace()


def _log_settings(config: Config, *, asked: bool, given_registry: bool) -> None:
    """Log a line for each setting that may surprise somebody."""
    for remark in config.remarks:
        log.warning("%s", remark)
    if config.config:
        log.debug("file with settings: %s (%s)", config.config, config.source("config"))
    for line in unknown_environment():
        log.info("%s", line)
    if inert := without_effect(config):
        log.info("go-micro settings that change nothing here: %s", ", ".join(inert))
    if in_pod() and asked and not given_registry and config.source("registry") == "default":
        # Never guess the registry: a pod that should use Kubernetes must not silently be alone.
        log.warning(
            "this is a pod of Kubernetes, and the registry is the default, %s: set MICRO_REGISTRY",
            config.registry,
        )
