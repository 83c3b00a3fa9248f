"""The serving end: handlers behind a port, with health and reflection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import grpc

from pymicro.base.errors import ConfigError, HandlerMismatch, HandlersError, PymicroError, StartError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.base.recorder import ServerRecord
from pymicro.identity.rules import AllowedCallers, CallRules
from pymicro.identity.rules_file import RulesFile
from pymicro.rpc.fast.engine import check_engine
from pymicro.rpc.grpcio import let_events_arrive, method_handlers, servicer_of
from pymicro.serving import health as health_service
from pymicro.serving.call.access_log import AccessLog
from pymicro.serving.call.authorization import Authorizer
from pymicro.serving.call.context import Draining, Serving
from pymicro.serving.call.dispatch import Dispatcher
from pymicro.serving.call.threads import HandlerThreads
from pymicro.serving.call_log import log_calls
from pymicro.serving.endpoints import endpoints_of
from pymicro.serving.foreign import Adapter, Foreign
from pymicro.serving.gomicro.debug import Debug
from pymicro.serving.gomicro.paths import Paths
from pymicro.serving.gomicro.translator import Translator
from pymicro.serving.grpc_transport import GrpcServerTransport
from pymicro.serving.guarding import OFF, REFLECTION, asking_health, guard_of, rules_path
from pymicro.serving.handlers import HandlerTable, adopt, build
from pymicro.serving.interceptors import ServerInterceptor, split
from pymicro.serving.reflection import reflection_handlers
from pymicro.serving.router import Router
from pymicro.serving.rpc_forms import RpcForms, Translate
from pymicro.serving.yielded import Yielded
from pymicro.settings.access import AccessRule
from pymicro.settings.config import in_pod

if TYPE_CHECKING:
    from pymicro.identity.keeper import IdentityKeeper
    from pymicro.nodes.node import Endpoint
    from pymicro.serving.transport import ServedMethods, ServerTransport
    from pymicro.settings.config import Config
    from pymicro.telemetry.tracing import Tracing

__all__ = ["Server"]

log = logger("pymicro.server")

# Seconds to clean up for handlers that are cancelled at the end of the grace.
_CLEANUP = 1.0

# Seconds that a stopping server waits for its callers to leave. Watchers of the local registry
# need 0.25 s to see that a node has left; a caller that has not seen it by now has no watcher.
_PATIENCE = 1.0


# Programs that were written for grpc.aio.server add these packages' servicers.
_GRPCIOS = {
    "grpc_health": "health is always served, so grpcio's HealthServicer is left out: "
    "set_health() and health_check() say whether the service is well",
    "grpc_reflection": "reflection is always served, so grpcio's ReflectionServicer is left out",
}


class Server:
    """Serves handlers and reports its health; it knows no registry.

    Call in this order: `add`, `check`, `bind`, `start`, `set_serving(True)`;
    `set_serving(False)`, `begin_drain`, `quieten`, `stop`. May be built before a loop runs.

    Args:
        interceptors: `async def f(call, proceed)`, the first one outermost; and
            grpc.aio's own, which run outside those. Health and reflection pass
            through grpc.aio's only. And what says which tokens are taken.
        options: grpc channel arguments; they override ours.
        compression: Compression of responses.
        transport: Used instead of the one that the setting `transport` names; it sees to its own
            options and compression.
        record: Where calls are counted; None counts none.
        yielded: What the service's lifespan yields, for handlers; None for no lifespan.
        identity: Entered before `bind`. With a certificate, the port speaks TLS; None for plain text.

    Attributes:
        secured: Whether its port speaks TLS, once that is bound.
        plain: Host and real port on which it serves plain text besides; None if there is none.

    Raises:
        PluginError: The transport's package is not installed.
        ConfigError: The transport does not know an option, or its package is of another pymicro.
    """

    def __init__(
        self,
        config: Config,
        *,
        interceptors: Sequence[ServerInterceptor | grpc.aio.ServerInterceptor] = (),
        options: Sequence[tuple[str, Any]] = (),
        compression: grpc.Compression | None = None,
        transport: ServerTransport | None = None,
        record: ServerRecord | None = None,
        yielded: Yielded | None = None,
        identity: IdentityKeeper | None = None,
    ) -> None:
        self._config = config
        self._yielded = yielded or Yielded(config.server_name or "this server", expected=False)
        self._identity = identity
        self._record = record
        self._interceptors, self._foreign, self._accepted = split(interceptors)
        self._transport: ServerTransport = transport or _transport(config, options, compression)
        self._tables: dict[str, HandlerTable] = {}
        self._allowed: dict[str, AllowedCallers] = {}
        self._rules_file: RulesFile | None = None
        self._guard: Authorizer | None = None
        self._mismatches: list[HandlerMismatch] = []
        self._adopted: dict[str, Mapping[str, Any]] = {}
        self._told: set[str] = set()
        self._dynamic: list[grpc.GenericRpcHandler] = []
        self._threads = HandlerThreads(config.handler_threads)
        # One is enough: parsing is Python, of which one thread runs at a time.
        self._reading = HandlerThreads(1, "pymicro-reading")
        self._serving: Serving | None = None
        rule = AccessRule.of(config.access_log)
        self._access = AccessLog(rule) if rule != AccessRule() else None
        self._health: health_service.HealthService | None = None
        self._debug: Debug | None = None
        self._bound = False
        self.secured = False
        self.plain: tuple[str, int] | None = None
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._broken: BaseException | None = None

    # Handlers

    def add(
        self,
        obj: object,
        source: Any = None,
        *,
        partial: bool = False,
        allow: Sequence[str] | None = None,
    ) -> None:
        """Add an object with handlers; `check` reports its mismatches.

        Args:
            obj: An instance of a class with `@handler` methods, or of a
                generated servicer's subclass.
            source: The generated `*_pb2` module or a `ServiceDescriptor`; None
                for a servicer.
            partial: Whether rpcs may lack a handler on purpose; they answer UNIMPLEMENTED.
            allow: Who may call it; None if that is not said here.

        Raises:
            ConfigError: `allow` is no list of callers.
        """
        self._not_bound_yet()
        if self._left_out_if_grpcios(obj):
            return
        tables, mismatches = build(obj, source, partial=partial)
        self._mismatches += mismatches
        for table in tables:
            self._add_table(table)
            callers = AllowedCallers.of(allow, f"allow= of {table.service}")
            if callers is not None:
                self._allowed[table.service] = callers

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """For `add_…Servicer_to_server`, which calls it; other generic handlers are served too."""
        self._not_bound_yet()
        for generic in generic_rpc_handlers:
            methods = method_handlers(generic)
            if methods is None:
                self._dynamic.append(generic)
            else:
                self._adopt(generic.service_name(), methods)  # type: ignore[attr-defined]

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """For newer `add_…Servicer_to_server` functions, which call it too, with the same methods."""
        self._not_bound_yet()
        self._adopt(service_name, method_handlers)

    def check(self) -> None:
        """Refuse handlers that do not fit their protos.

        Raises:
            HandlersError: Names every mismatch of everything that was added.
        """
        if self._mismatches:
            raise HandlersError(self._mismatches)

    @property
    def services(self) -> tuple[str, ...]:
        """Full names of the added proto services, sorted."""
        return tuple(sorted(self._tables))

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every added method, for the registry record."""
        return endpoints_of(self._tables[name] for name in self.services)

    @property
    def method_count(self) -> int | None:
        """How many methods were added; None if a generic handler decides at each call which it has."""
        return None if self._dynamic else sum(len(table.methods) for table in self._tables.values())

    @property
    def ping_interval(self) -> str:
        """The shortest interval it permits between a client's pings, as its node tells; empty if none."""
        return self._transport.ping_interval

    # Life cycle

    async def bind(self, address: str, plain: str = "") -> tuple[str, int]:
        """Take the port; calls wait until `start`.

        Args:
            address: `host:port`.
            plain: Another one, on which a server with a certificate serves plain text; empty for none.

        Returns:
            The host and the real port.

        Raises:
            HandlersError: As `check` does.
            ConfigError: An address is malformed, or its host does not resolve; there is a second one
                and no certificate; callers shall be told of internal errors in a pod; or what says who
                calls, and who may, cannot be used.
            StartError: A port cannot be bound.
        """
        self._not_bound_yet()
        if self._config.debug_errors == "on" and in_pod():
            raise ConfigError(
                "debug_errors=on is refused in a pod of Kubernetes: whoever calls through a forwarded port "
                "looks like a caller on this machine, and would read tracebacks"
            )
        self.check()
        if self.method_count == 0:
            log.warning(
                "%s serves no method: nothing was added to it (service.add(...))", self._config.server_name
            )
        limit = self._config.max_concurrent_calls or math.inf
        loop = asyncio.get_running_loop()
        has_cancelled = self._transport.has_cancelled
        self._health = health_service.health_of(self._tables)
        self._debug = Debug(self._health)
        tables, (healths, _) = list(self._tables.values()), build(self._health, health_service.source)
        health = asking_health(healths, self._debug.handlers(self._config.server_name), tables)
        guard = self._guard = guard_of(
            self._config,
            tables,
            self._allowed,
            health,
            self._accepted,
            known=self._knows_callers,
            secured=self._identity is not None and self._identity.current.chain is not None,
        )
        self._serving = Serving(
            loop,
            limit=limit,
            has_cancelled=has_cancelled,
            record=self._record,
            access=self._access,
            yielded=self._yielded,
            debug_errors=self._config.debug_errors == "on",
            guard=guard,
        )
        if self._access is not None:
            self._access.names_callers = guard is not None
        if self._record is not None:
            for table in self._tables.values():
                for method in table.methods:
                    self._record.know(method.rpc.path)
        methods = self._methods(self._serving, self._health, self._debug)
        try:
            if guard is not None:
                await self._take_rules(guard)
            bound = await self._listen(address, plain, methods)
        except BaseException:
            await self._transport.stop(None)  # a first port is free again
            await self._close_rules()
            raise
        self._bound = True
        return bound

    async def start(self) -> None:
        """Answer calls; health says NOT_SERVING until `set_serving(True)`."""
        self._bound_serving()
        if self._access is not None:
            self._access.start()
        await self._transport.start(self._broke)

    def set_serving(self, serving: bool) -> None:
        """Set what health reports."""
        if self._health is not None:
            self._health.set_serving(serving)

    def set_well(self, well: bool) -> None:
        """Set whether it is well: if not, health says NOT_SERVING, and calls are served all the same."""
        if self._health is not None:
            self._health.set_well(well)

    @property
    def serving(self) -> bool:
        """Whether health says SERVING."""
        return self._health is not None and self._health.ready

    def begin_drain(self) -> None:
        """Say NOT_SERVING, end health and reflection streams, set `context.draining`."""
        if self._health is not None and self._serving is not None:
            self._health.end()
            self._serving.draining.begin()

    async def quieten(self, pause: float) -> None:
        """Serve on until callers have left, for a second at most; `stop` ends it early.

        grpc's own stop ends calls that are on their way with a bare CANCELLED, which
        does not say whether they ran. So we call it only when no more calls come.
        Meanwhile a caller that keeps calling is not refused: behind a proxy it has one
        connection, to us, and goes to another node only when grpc ends that.

        Args:
            pause: Seconds without a call after which callers count as gone.
        """
        if self._serving is None:
            return
        serving, end = self._serving, time.monotonic() + _PATIENCE
        while not self._stopping.is_set():
            now, last = time.monotonic(), serving.last
            if now >= last + pause:
                await let_events_arrive()  # after a delay, the loop may not have seen calls that have arrived
                if serving.last == last:
                    return
            elif now >= end:
                log.info("stopping while calls still come: some that are on their way may end with CANCELLED")
                return
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(last + pause, end) - now):
                        await self._stopping.wait()

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls, wait `grace` seconds for those in progress, cancel the rest.

        May be called again with less grace. Returns in bounded time even if handlers
        ignore their cancellation; the log then names them.
        """
        self._stopping.set()
        self.begin_drain()
        if self._bound:
            await self._transport.stop(grace)
            await self._cleaned_up()
        if self._access is not None:
            await self._access.close()
        await self._close_rules()
        if self._debug is not None:
            self._debug.close()
        self._threads.close()
        self._reading.close()
        self._stopped.set()

    async def wait_until_stopped(self) -> None:
        """Return once `stop` has been called and has finished.

        Raises:
            PymicroError: The transport broke: calls get no answer any more, and this
                server cannot be started again (see `rpc.grpcio.is_accept_loop`).
        """
        await self._stopped.wait()
        if self._broken is not None:
            raise PymicroError(f"grpc's accept loop broke: {excerpt(self._broken, 1000)}") from self._broken

    @property
    def tracing(self) -> Tracing | None:
        """What makes spans of calls; set it before the start. Health and reflection have none."""
        return self._bound_serving().tracing

    @tracing.setter
    def tracing(self, tracing: Tracing | None) -> None:
        self._bound_serving().tracing = tracing

    @property
    def in_progress(self) -> int:
        """Calls being served, health and reflection not counted."""
        return len(self._serving.calls) if self._serving else 0

    @property
    def interrupted(self) -> bool:
        """Whether a handler raised KeyboardInterrupt."""
        return self._serving is not None and self._serving.interrupted

    @property
    def draining(self) -> Draining:
        """What handlers see as `context.draining`."""
        return self._bound_serving().draining

    @property
    def _knows_callers(self) -> bool:
        """Whether callers can prove who they are."""
        keeper = self._identity
        asked = self._config.tls_client_certificates != "none"
        return keeper is not None and keeper.current.chain is not None and asked

    async def _listen(self, address: str, plain: str, methods: ServedMethods) -> tuple[str, int]:
        keeper = self._identity
        if keeper is None or keeper.current.chain is None:
            if plain:
                raise ConfigError(
                    f"tls_plain_address {excerpt(plain)}: without a certificate (tls_dir, tls_bundle, or "
                    "tls_cert and tls_key) server_address is plain text already"
                )
            return await self._transport.listen(address, methods)
        bound = await self._transport.listen(address, methods, keeper)
        self.secured = True
        if plain:
            try:
                self.plain = await self._transport.listen(plain, methods)
            except (ConfigError, StartError) as exc:
                text = str(exc).replace("server_address", "tls_plain_address")
                raise type(exc)(text.replace("--server-address", "--tls-plain-address")) from exc
        return bound

    async def _take_rules(self, guard: Authorizer) -> None:
        """Read what says who may call, and who calls, and follow it; complain of rules about nothing.

        Raises:
            ConfigError: The file cannot be used.
        """
        paths = [method.rpc.path for table in self._tables.values() for method in table.methods]

        def take(rules: CallRules) -> None:
            guard.take(rules)
            if not self._dynamic:
                guard.tell_of_strangers((*paths, *REFLECTION))

        if guard.authentication is not None:
            await guard.authentication.open()
        if path := rules_path(self._config):
            self._rules_file = RulesFile(path, take)
            await self._rules_file.__aenter__()

    async def _close_rules(self) -> None:
        if self._rules_file is not None:
            await self._rules_file.__aexit__(None, None, None)
        if self._guard is not None and self._guard.authentication is not None:
            await self._guard.authentication.close()

    def _methods(self, serving: Serving, health: health_service.HealthService, debug: Debug) -> ServedMethods:
        limit = self._config.max_sent_message_size or math.inf
        foreign = bool(self._foreign)
        interceptors = self._interceptors
        if log.isEnabledFor(logging.DEBUG):
            interceptors = (log_calls, *interceptors)
        users = Dispatcher(
            serving, self._threads, self._reading, interceptors=interceptors, foreign=foreign, limit=limit
        )
        # These have a set of calls of their own: a watch is no call in progress, and no limit applies.
        aside = Serving(
            serving.loop,
            serving.draining,
            has_cancelled=serving.has_cancelled,
            yielded=serving.yielded,
            guard=serving.guard,
        )
        own = Dispatcher(aside, self._threads, self._reading, foreign=foreign, limit=limit)
        described = [table.descriptor for table in self._tables.values() if table.descriptor]
        health_tables, _ = build(health, health_service.source)
        methods = [method for table in health_tables for method in table.methods]
        if self._config.reflection != OFF:
            methods += reflection_handlers([*described, health_service.source])
        kept = {method.rpc.path: method for method in methods}
        # Users may bring their own health or reflection, which count like ours.
        theirs = Dispatcher(
            aside, self._threads, self._reading, interceptors=interceptors, foreign=foreign, limit=limit
        )
        gomicro = Translator(self._config.server_name)
        translate, adapter = Translate(gomicro, serving), Adapter(serving, self._threads, gomicro)
        served = {
            method.rpc.path: RpcForms(method, theirs if method.rpc.path in kept else users, translate)
            for table in self._tables.values()
            for method in table.methods
        }
        if any(table.service == health_service.source.full_name for table in self._tables.values()):
            log.info(
                "the service has a health (%s) of its own: what pymicro knows does not count there, and "
                "Kubernetes' probes ask it for `%s` too, if `pymicro manifest` wrote them",
                health_service.source.full_name,
                health_service.LIVENESS,
            )
        paths = Paths(served)
        for path, method in kept.items():
            if path not in served:
                served[path] = RpcForms(method, own, translate)
                paths.add(path)
        for method in debug.handlers(self._config.server_name):
            if not paths.like(method.rpc.path):  # a user's own Debug takes precedence
                served[method.rpc.path] = RpcForms(method, own, translate)
                paths.add(method.rpc.path, by_end=True)
        router = Router(served, paths, self._dynamic, users, translate, adapter)
        # Without foreign interceptors, all that the router finds are methods in bytes.
        return Foreign(router.find, self._foreign, adapter) if foreign else cast("ServedMethods", router)

    def _broke(self, exc: BaseException) -> None:
        if not self._stopping.is_set():
            self._broken = exc
            self._stopped.set()

    async def _cleaned_up(self) -> None:
        deadline = asyncio.get_running_loop().time() + _CLEANUP
        serving = self._bound_serving()
        tasks = {call.task for call in serving.calls if call.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=deadline - asyncio.get_running_loop().time())
        for call in serving.calls:
            log.warning("%s: its handler ignores that it was cancelled", call.method)

    def _add_table(self, table: HandlerTable) -> None:
        earlier = self._tables.get(table.service)
        if earlier is not None:
            found = f"a second one at {table.where}"
            self._mismatches.append(
                HandlerMismatch(earlier.where, table.service, "one object with its handlers", found)
            )
            return
        self._tables[table.service] = table

    def _left_out_if_grpcios(self, servicer: object) -> bool:
        """Whether a servicer is grpcio's own health or reflection: pymicro always serves its own instead."""
        what = _GRPCIOS.get(type(servicer).__module__.partition(".")[0])
        if what is None:
            return False
        if what not in self._told:
            self._told.add(what)
            log.info("%s", what)
        return True

    def _adopt(self, service: str, methods: Mapping[str, Any]) -> None:
        servicers = {id(servicer): servicer for servicer in map(servicer_of, methods.values())}
        if servicers and all(map(self._left_out_if_grpcios, servicers.values())):
            return
        earlier = self._adopted.get(service)
        if earlier is not None and dict(earlier) == dict(methods):
            return  # generated code passes the same methods in both ways
        self._adopted[service] = methods
        table, mismatches = adopt(service, methods)
        self._mismatches += mismatches
        self._add_table(table)

    def _not_bound_yet(self) -> None:
        if self._bound:
            raise RuntimeError("handlers are added, and the port bound, once and before the server starts")

    def _bound_serving(self) -> Serving:
        if self._serving is None:
            raise RuntimeError("bind the server first")
        return self._serving


def _transport(
    config: Config, options: Sequence[tuple[str, Any]], compression: grpc.Compression | None
) -> ServerTransport:
    """The transport that the settings name."""
    if config.transport != "fast":
        return GrpcServerTransport(config, options, compression)
    check_engine()
    from pymicro.serving.fast import FastServerTransport

    return FastServerTransport(config, options, compression)
