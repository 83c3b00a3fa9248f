"""One life of a service: everything it opens, in one exit stack.

Starting: check handlers → bind → registry and client → lifespan → on_start → serve → background
tasks → health checks → SERVING → register. Stopping is the opposite, with a pause in which other
watchers see that the node has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pymicro.base.errors import PymicroError
from pymicro.base.forks import use_grpc
from pymicro.base.loggers import logger
from pymicro.base.watchdog import watched
from pymicro.nodes.address import join_address, split_address
from pymicro.nodes.node import Node
from pymicro.nodes.wellknown import ADMIN_PORT, KEEPALIVE, TLS, TLS_HERE, ZONE
from pymicro.runtime.admin_port import admin_address, opened, port_for_others
from pymicro.runtime.advertise import Advertisement, advertised_address
from pymicro.runtime.background import Background, BackgroundWork
from pymicro.runtime.base_client import BaseClient
from pymicro.runtime.health import OwnHealth, Verdict
from pymicro.runtime.hooks import call_hook, run_hook
from pymicro.runtime.life_here import life_here
from pymicro.runtime.supervised import Supervised
from pymicro.serving.server import Server
from pymicro.serving.yielded import StateT, Yielded
from pymicro.settings import config as configuration
from pymicro.settings.config import Config
from pymicro.telemetry.tracing import find_tracing

if TYPE_CHECKING:
    import grpc

    from pymicro.discovery.registry import Registry
    from pymicro.telemetry.admin import AdminPort

__all__ = ["Hook", "Life", "Lifespan", "ServiceParts", "node_metadata"]

log = logger("pymicro")

# Seconds without a call after which callers count as gone, unless the registry knows better.
# This waits out callers with many calls a second. A caller with few hardly ever has one on its way
# in the millisecond in which grpc itself stops.
NOTICE = 0.1

Hook = Callable[..., Any]
Lifespan = Callable[..., AbstractAsyncContextManager[StateT]]


@dataclass(slots=True)
class ServiceParts:
    """The parts of a service, before and apart from any life of it.

    Attributes:
        added: Functions that add the handlers to a server.
        start_hooks: Called before the first call is served.
        stop_hooks: Called after the last call has ended and the lifespan has closed.
        lifespan: Makes a context manager, opened before the start hooks.
        background: Runs from before the registration until the drain.
        interceptors: They run around every served call.
        options: grpc server arguments.
        compression: Default compression of responses.
        health: What the program says of the service's health, and its checks.
    """

    interceptors: Sequence[Any] = ()
    options: Sequence[tuple[str, Any]] = ()
    compression: grpc.Compression | None = None
    lifespan: Lifespan[Any] | None = None
    background: list[BackgroundWork] = field(default_factory=list)
    added: list[Callable[[Server], None]] = field(default_factory=list)
    start_hooks: list[Hook] = field(default_factory=list)
    stop_hooks: list[Hook] = field(default_factory=list)
    health: OwnHealth = field(default_factory=OwnHealth)


class Life:
    """A service from start to stop.

    Args:
        service: The argument for hooks and other functions of the user's.
        client: The service's client, equipped.
        supervisor: Asked before anything is opened, and told when the start is over.
        calling: The client that its handlers call with, if that is another one.

    Attributes:
        service: The service.
        yielded: What its lifespan yields.
        background: Its background tasks.
        bound: Host and port it listens on, once they are bound.
        node: The node to register at the end of the start; hooks and handlers see it before.
        started: Whether the start is over.
        broken: Set when the server has ended by itself.
        advertisement: Its registration; None before it serves.
        admin: Its admin port; None if it has none.
    """

    def __init__(
        self,
        service: object,
        parts: ServiceParts,
        client: BaseClient,
        supervisor: Supervised | None = None,
        calling: BaseClient | None = None,
    ) -> None:
        self.service = service
        self._parts = parts
        self._client = client
        self._calling = calling
        self._config = client.config
        self._supervisor = supervisor
        self._stack = AsyncExitStack()
        self._server: Server | None = None
        self._hurried = asyncio.Event()
        self._verdict: Verdict | None = None
        name = self._config.server_name
        self.yielded = Yielded(name, expected=parts.lifespan is not None)
        self.background = Background(parts.background, service, name)
        self.advertisement: Advertisement | None = None
        self.started = False
        self.broken = asyncio.Event()
        self.bound = ("", 0)
        self.node = Node("", "")
        self.admin: AdminPort | None = None

    @property
    def interrupted(self) -> bool:
        """Whether a handler raised KeyboardInterrupt, which stops the process like Ctrl-C."""
        return self._server is not None and self._server.interrupted

    @property
    def health_problems(self) -> Mapping[str, str]:
        """Why it is not well, by the name of the check; empty if it is."""
        return self._verdict.problems if self._verdict is not None else {}

    def _set_well(self, well: bool) -> None:
        # As at a stop, callers that ask for health learn it before the registry does.
        if self._server is not None:
            self._server.set_well(well)
        if self.advertisement is not None:
            self.advertisement.want(well)

    def hurry(self) -> None:
        """Skip all waiting in the stop."""
        self._hurried.set()

    @contextlib.contextmanager
    def _here(self) -> Iterator[None]:
        """What runs in this block, and the tasks that it starts, belong to this life."""
        token = life_here.set(self)
        try:
            yield
        finally:
            life_here.reset(token)

    async def start(self) -> None:
        """Open everything; if that fails or is cancelled, close what was opened.

        Raises:
            ConfigError: Handlers do not fit, or an address is malformed.
            StartError: The port is taken, for example.
            RegistryError: The registry cannot work here.
            PymicroError: This process was forked after gRPC was used.
        """
        with self._here():
            await self._start()

    async def _start(self) -> None:
        parts, config = self._parts, self._config
        use_grpc()
        recorder = self._client.recorder
        server = Server(
            config,
            interceptors=parts.interceptors,
            options=parts.options,
            compression=parts.compression,
            record=recorder.server if recorder is not None else None,
            yielded=self.yielded,
            identity=self._client.identity,
        )
        for add in parts.added:
            add(server)
        server.check()
        self._server = server
        place = admin_address(config, self._client.registry.name, service=True)
        if self._supervisor is not None:
            await self._supervisor.turn(
                address=_fixed_address(config),
                # One node id cannot be registered twice, and one port not be bound twice.
                alone=bool(
                    config.server_id
                    or (place is not None and place.port)
                    or _has_port(config.tls_plain_address)
                ),
                longest=self._drain_delay + config.stop_grace,
            )
        async with AsyncExitStack() as stack:
            # The first to come and the last to go: it tells how start and stop get on.
            self.admin = await stack.enter_async_context(
                opened(place, self._client, served=_ShownLife(self, server), calling=self._calling)
            )
            if self._client.identity is not None:
                await stack.enter_async_context(self._client.identity)
            self.bound = await server.bind(_listen_address(config), config.tls_plain_address)
            # From here on the port is ours, and grpc-core frees it in stop().
            stack.push_async_callback(self._stop_server, server)
            registry = self._client.registry
            await stack.enter_async_context(registry)
            address, said = _published(config, server, self.bound, registry)
            metadata = {**said, **node_metadata(config, server)}
            if self.admin is not None and (port := port_for_others(self.admin, address)):
                metadata = {ADMIN_PORT: str(port), **metadata}
            self.node = Node(
                id=config.server_id or f"{config.server_name}-{uuid.uuid4()}",
                address=address,
                service=config.server_name,
                version=config.server_version,
                metadata=metadata,
                endpoints=server.endpoints(),
            )
            await stack.enter_async_context(self._client)
            stack.push_async_callback(self._on_stop)
            if parts.lifespan is not None:
                self.yielded.open(await stack.enter_async_context(call_hook(parts.lifespan, self.service)))
                stack.callback(self.yielded.close)
            for hook in parts.start_hooks:
                await run_hook(hook, self.service)
            # Hooks may block: they load what the service needs before it serves.
            stack.enter_context(watched(config.loop_lag, recorder.lag if recorder is not None else None))
            # The service's hooks may have set up OpenTelemetry.
            self._client.find_tracing()
            server.tracing = find_tracing(config.tracing, "server")
            await server.start()
            await stack.enter_async_context(self._serving(server))
            verdict = self._verdict = Verdict(parts.health, self.service, config.server_name, self._set_well)
            stack.push_async_callback(verdict.close)
            await verdict.open()
            server.set_serving(True)
            self.advertisement = advertisement = Advertisement(
                registry, self.node, config.register_interval, wanted=verdict.well, recorder=recorder
            )
            await stack.enter_async_context(advertisement)
            await stack.enter_async_context(self._watched(server, advertisement))
            # Before the node is withdrawn, so that a check does not speak of a service that stops.
            stack.push_async_callback(verdict.close)
            # Last in, first out: clients that ask for health learn it before the registry does.
            stack.callback(server.set_serving, False)
            self._stack = stack.pop_all()
        self.started = True
        bound = join_address(*self.bound) if self.bound[1] else self.bound[0]
        log.info(  # one row of a terminal
            "%s %s on %s, %s%s",
            config.server_name,
            config.server_version,
            _where(self.bound, server),
            "registered" if advertisement.registered else "not yet registered",
            f" as {self.node.address}" if self.node.address != bound else "",
        )
        log.debug(
            "%s: %s, selector %s, balancer %s%s",
            config.server_name,
            registry.describe(),
            config.selector,
            config.balancer,
            f", admin port {self.admin.bound[1]}" if self.admin is not None else "",
        )
        if self._supervisor is not None:
            self._supervisor.started()

    async def stop(self) -> None:
        """Undo everything, in the opposite order."""
        with self._here():
            await self._stack.aclose()

    async def crash(self) -> None:
        """End the server at once, without telling the registry; `stop` undoes the rest."""
        self.hurry()
        await self.background.close(0)
        if self._server is not None:
            await self._server.stop(0)

    @asynccontextmanager
    async def _watched(self, server: Server, advertisement: Advertisement) -> AsyncIterator[None]:
        """Notice if the server breaks: then no caller must be sent to it any more."""

        async def watch() -> None:
            try:
                await server.wait_until_stopped()
            except PymicroError as exc:
                log.critical("%s serves nobody any more: %s", self._config.server_name, exc)
                self.broken.set()
                await advertisement.withdraw()

        watching = asyncio.create_task(watch(), name="watch the server")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def _stop_server(self, server: Server) -> None:
        await server.stop(0)

    @asynccontextmanager
    async def _serving(self, server: Server) -> AsyncIterator[None]:
        """Surrounds the registration: its exit stops the server once the node is deregistered.

        Background tasks begin at its start, and end while the calls in flight do.
        """
        known = True
        self.background.open()
        try:
            yield
        except PymicroError:
            known = False  # the registration was refused, so no caller was sent here
            raise
        finally:
            # Watchers elsewhere have to see that the node has left; the server serves on until then.
            if known:
                await self._wait(self._drain_delay)
            server.begin_drain()
            stop = asyncio.create_task(self._leave(server), name="stop the server")
            hurried = asyncio.create_task(self._hurried.wait(), name="wait for a second signal")
            await asyncio.wait({stop, hurried}, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
            if not stop.done():
                self.background.hurry()
                await server.stop(0)
            await stop

    @property
    def _drain_delay(self) -> float:
        delay = self._config.drain_delay
        return self._client.registry.drain_delay if delay is None else delay

    async def _leave(self, server: Server) -> None:
        grace = self._config.stop_grace
        # They are told at once, as streams are, and have the same grace.
        ended = asyncio.create_task(self.background.close(grace), name="end the background tasks")
        try:
            await server.quieten(getattr(self._client.registry, "notice", NOTICE))
            await server.stop(grace)
        finally:
            await ended

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurried.wait()

    async def _on_stop(self) -> None:
        for hook in self._parts.stop_hooks:
            try:
                await run_hook(hook, self.service)
            except Exception:
                log.exception("on_stop failed; stopping all the same")


class _ShownLife:
    """A life as its admin port shows it."""

    def __init__(self, life: Life, server: Server) -> None:
        self._life = life
        self._server = server

    @property
    def broken(self) -> bool:
        """Whether the server has ended by itself."""
        return self._life.broken.is_set()

    @property
    def started(self) -> bool:
        """Whether the start is over."""
        return self._life.started

    @property
    def serving(self) -> bool:
        """Whether health says SERVING."""
        return self._server.serving

    @property
    def registered(self) -> bool:
        """Whether its node is registered."""
        return self._life.advertisement is not None and self._life.advertisement.registered

    def to_json(self) -> Mapping[str, Any]:
        """Its node, and whether that is registered."""
        node, advertisement = self._life.node, self._life.advertisement
        return {
            "name": node.service,
            "version": node.version,
            "id": node.id,
            "address": node.address,
            "methods": self._server.method_count,
            "registered": self.registered,
            "registration_error": (advertisement.complaint or None) if advertisement is not None else None,
        }


def node_metadata(config: Config, server: Server) -> dict[str, str]:
    """What a service's node says about itself; `server_metadata` has the last word."""
    # The first three are as in a go-micro service: its monitor skips nodes without `server` and
    # `transport` (`monitor/default.go`), its mucp client reads `protocol`.
    secured = bool(config.tls_dir or config.tls_bundle or config.tls_cert)
    own = {
        "protocol": "grpc",
        "server": "grpc",
        "transport": "grpc",
        ZONE: config.zone,
        KEEPALIVE: server.ping_interval,
        TLS: TLS_HERE if secured and not config.tls_plain_address else "",
    }
    return {**{key: text for key, text in own.items() if text}, **config.server_metadata}


def _listen_address(config: Config) -> str:
    if config.server_address:
        return config.server_address
    # In a pod, the port that static callers expect (go-micro's convention).
    return "0.0.0.0:8080" if configuration.in_pod() else "127.0.0.1:0"


def _published(
    config: Config, server: Server, bound: tuple[str, int], registry: Registry
) -> tuple[str, dict[str, str]]:
    """The address to register, and what the node says of TLS.

    While there is a plain port on the same host, that is the address: callers that know nothing of TLS
    can go on, and the others find the port that speaks TLS in the node's metadata.
    """
    address = advertised_address(config.server_advertise, bound, registry)
    if not server.secured:
        return address, {}
    plain = server.plain
    if plain is not None and plain[0] == bound[0]:
        other = advertised_address(config.server_advertise, plain, registry)
        if other != address:  # unless `server_advertise` names one port itself
            return other, {TLS: str(split_address(address)[1])}
    return address, {TLS: TLS_HERE}


def _where(bound: tuple[str, int], server: Server) -> str:
    """Where a server listens, for people."""
    text = join_address(*bound) if bound[1] else bound[0]
    if server.secured:
        text += " (TLS"
        text += f", plain text on {join_address(*server.plain)})" if server.plain is not None else ")"
    return text


def _has_port(address: str) -> bool:
    """Whether an address names a port, which only one process can have."""
    with contextlib.suppress(ValueError):  # binding it will report what is wrong with it
        return bool(address) and split_address(address)[1] != 0
    return False


def _fixed_address(config: Config) -> str:
    """The address that another process may hold; empty if any free port will do."""
    address = _listen_address(config)
    return address if _has_port(address) else ""
