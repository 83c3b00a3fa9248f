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

from pymicro.base.errors import HandlerMismatch, HandlersError, PluginError, PymicroError
from pymicro.base.recorder import ServerRecord
from pymicro.rpc.grpcio import let_events_arrive, method_handlers
from pymicro.serving import health as health_service
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
from pymicro.serving.handlers import HandlerTable, adopt, build
from pymicro.serving.interceptors import ServerInterceptor, split
from pymicro.serving.reflection import reflection_handlers
from pymicro.serving.router import Router
from pymicro.serving.rpc_forms import RpcForms, Translate

if TYPE_CHECKING:
    from pymicro.nodes.node import Endpoint
    from pymicro.serving.transport import ServedMethods, ServerTransport
    from pymicro.settings.config import Config
    from pymicro.telemetry.tracing import Tracing

__all__ = ["Server"]

log = logging.getLogger("pymicro.server")

# Seconds to clean up for handlers that are cancelled at the end of the grace.
_CLEANUP = 1.0

# Seconds that a stopping server waits for its callers to leave. Watchers of the local registry
# need 0.25 s to see that a node has left; a caller that has not seen it by now has no watcher.
_PATIENCE = 1.0


class Server:
    """Serves handlers and reports its health; it knows no registry.

    Call in this order: `add`, `check`, `bind`, `start`, `set_serving(True)`;
    `set_serving(False)`, `begin_drain`, `quieten`, `stop`. May be built before a loop runs.

    Args:
        interceptors: `async def f(call, proceed)`, the first one outermost; and
            grpc.aio's own, which run outside those. Health and reflection pass
            through grpc.aio's only.
        options: grpc channel arguments; they override ours.
        compression: Compression of responses.
        transport: Used instead of the one that the setting `transport` names; it sees to its own
            options and compression.
        record: Where calls are counted; None counts none.

    Raises:
        PluginError: The transport's package is not installed.
        ConfigError: The transport does not know an option.
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
    ) -> None:
        self._config = config
        self._record = record
        self._interceptors, self._foreign = split(interceptors)
        self._transport: ServerTransport = transport or _transport(config, options, compression)
        self._tables: dict[str, HandlerTable] = {}
        self._mismatches: list[HandlerMismatch] = []
        self._adopted: dict[str, Mapping[str, Any]] = {}
        self._dynamic: list[grpc.GenericRpcHandler] = []
        self._threads = HandlerThreads(config.handler_threads)
        # One is enough: parsing is Python, of which one thread runs at a time.
        self._reading = HandlerThreads(1, "pymicro-reading")
        self._serving: Serving | None = None
        self._health: health_service.HealthService | None = None
        self._debug: Debug | None = None
        self._bound = False
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._broken: BaseException | None = None

    # Handlers

    def add(self, obj: object, source: Any = None, *, partial: bool = False) -> None:
        """Add an object with handlers; `check` reports its mismatches.

        Args:
            obj: An instance of a class with `@handler` methods, or of a
                generated servicer's subclass.
            source: The generated `*_pb2` module or a `ServiceDescriptor`; None
                for a servicer.
            partial: Whether rpcs may lack a handler on purpose; they answer UNIMPLEMENTED.
        """
        self._not_bound_yet()
        tables, mismatches = build(obj, source, partial=partial)
        self._mismatches += mismatches
        for table in tables:
            self._add_table(table)

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
    def ping_interval(self) -> str:
        """The shortest interval it permits between a client's pings, as its node tells; empty if none."""
        return self._transport.ping_interval

    # Life cycle

    async def bind(self, address: str) -> tuple[str, int]:
        """Take the port; calls wait until `start`.

        Returns:
            The host and the real port.

        Raises:
            HandlersError: As `check` does.
            ConfigError: The address is malformed, or its host does not resolve.
            StartError: The port cannot be bound.
        """
        self._not_bound_yet()
        self.check()
        limit = self._config.max_concurrent_calls or math.inf
        loop = asyncio.get_running_loop()
        has_cancelled = self._transport.has_cancelled
        self._serving = Serving(loop, limit=limit, has_cancelled=has_cancelled, record=self._record)
        if self._record is not None:
            for table in self._tables.values():
                for method in table.methods:
                    self._record.know(method.rpc.path)
        self._health = health_service.health_of(self._tables)
        self._debug = Debug(self._health)
        bound = await self._transport.listen(address, self._methods(self._serving, self._health, self._debug))
        self._bound = True
        return bound

    async def start(self) -> None:
        """Answer calls; health says NOT_SERVING until `set_serving(True)`."""
        self._bound_serving()
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
            raise PymicroError(f"grpc's accept loop broke: {self._broken!r}") from self._broken

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
        aside = Serving(serving.loop, serving.draining, has_cancelled=serving.has_cancelled)
        own = Dispatcher(aside, self._threads, self._reading, foreign=foreign, limit=limit)
        described = [table.descriptor for table in self._tables.values() if table.descriptor]
        health_tables, _ = build(health, health_service.source)
        methods = [method for table in health_tables for method in table.methods]
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

    def _adopt(self, service: str, methods: Mapping[str, Any]) -> None:
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
    try:
        from pymicro.serving.fast import FastServerTransport
    except ModuleNotFoundError as exc:
        if exc.name != "pymicro_fast":
            raise
        raise PluginError("transport fast needs pymicro-fast: pip install 'pymicro-grpc[fast]'") from exc
    return FastServerTransport(config, options, compression)
