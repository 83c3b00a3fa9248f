"""The serving end: handlers behind a port, with health and reflection."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc

from pymicro.base.errors import ConfigError, PymicroError, StartError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.base.recorder import ServerRecord
from pymicro.identity.rules import CallRules
from pymicro.identity.rules_file import RulesFile
from pymicro.rpc.fast.engine import check_engine
from pymicro.rpc.grpcio import let_events_arrive
from pymicro.serving import health as health_service
from pymicro.serving.added import AddedHandlers
from pymicro.serving.call.access_log import AccessLog
from pymicro.serving.call.authorization import Authorizer
from pymicro.serving.call.context import Draining, Serving
from pymicro.serving.call.threads import HandlerThreads
from pymicro.serving.gomicro.debug import Debug
from pymicro.serving.grpc_transport import GrpcServerTransport
from pymicro.serving.guarding import REFLECTION, asking_health, guard_of, rules_path
from pymicro.serving.handlers import build
from pymicro.serving.interceptors import ServerInterceptor, split
from pymicro.serving.served import served_methods
from pymicro.serving.yielded import Yielded
from pymicro.settings.access import AccessRule
from pymicro.settings.config import in_pod

if TYPE_CHECKING:
    from pymicro.identity.keeper import IdentityKeeper
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


class Server(AddedHandlers):
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
        super().__init__()
        self._config = config
        self._yielded = yielded or Yielded(config.server_name or "this server", expected=False)
        self._identity = identity
        self._record = record
        self._interceptors, self._foreign, self._accepted = split(interceptors)
        self._transport: ServerTransport = transport or _transport(config, options, compression)
        self._rules_file: RulesFile | None = None
        self._guard: Authorizer | None = None
        self._threads = HandlerThreads(config.handler_threads)
        # One is enough: parsing is Python, of which one thread runs at a time.
        self._reading = HandlerThreads(1, "pymicro-reading")
        self._serving: Serving | None = None
        rule = AccessRule.of(config.access_log)
        self._access = AccessLog(rule) if rule != AccessRule() else None
        self._health: health_service.HealthService | None = None
        self._debug: Debug | None = None
        self.secured = False
        self.plain: tuple[str, int] | None = None
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._broken: BaseException | None = None

    # Life cycle

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
        debugs = self._debug.handlers(self._config.server_name)
        health = asking_health(healths, debugs, tables)
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
        methods = served_methods(
            self._config,
            self._serving,
            self._tables,
            self._dynamic,
            healths,
            debugs,
            interceptors=self._interceptors,
            foreign=self._foreign,
            threads=self._threads,
            reading=self._reading,
        )
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
