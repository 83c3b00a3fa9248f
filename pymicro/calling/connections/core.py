"""What all channels of one client share: node channels, targets, background tasks."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable
from contextvars import Context
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

from grpc.aio import Metadata

from pymicro.balancing.balancer import Balancer
from pymicro.balancing.chooser import Chooser
from pymicro.balancing.policy.retry import RetryPolicy
from pymicro.balancing.policy.subset import Subset
from pymicro.base.errors import PymicroError
from pymicro.base.forks import use_grpc
from pymicro.base.grpc_loops import GrpcUse, use_grpc_here
from pymicro.base.loggers import logger
from pymicro.base.recorder import Recorder
from pymicro.base.tasks import Tasks
from pymicro.calling.connections.client_tls import ClientTls
from pymicro.calling.connections.first_wait import FirstWaits
from pymicro.calling.connections.grpc_transport import GrpcTransport
from pymicro.calling.connections.method import Method
from pymicro.calling.connections.node_channel import NodeChannel, NodeChannels
from pymicro.calling.connections.options import ChannelOptions
from pymicro.calling.connections.target import CONNECT_AHEAD, Filter, Target, wrong_loop
from pymicro.calling.connections.transport import ClientTransport
from pymicro.discovery.fixed import FixedNodes
from pymicro.discovery.selector import Selector
from pymicro.identity.identity import Identity
from pymicro.rpc.fast.engine import check_engine
from pymicro.rpc.wire.gomicro import FROM_SERVICE
from pymicro.rpc.wire.metadata import checked
from pymicro.settings.config import Config
from pymicro.telemetry.tracing import Tracing

__all__ = ["ClientCore", "LiveCall", "Opened"]

log = logger("pymicro.client")

MOST_METHODS = 4096
# Seconds for which a service is followed that nobody can call any more: a program that makes a channel for
# each call must not begin anew each time.
LINGER = 30.0

_Key = tuple[str, Filter, ChannelOptions, FixedNodes | None]


class Opened(Protocol):
    """A channel that has begun to call and must be told when the client is closed."""

    def forget(self) -> None:
        """The client is closed: ask for a new target at the next call."""
        ...


class LiveCall(Protocol):
    """A call in flight."""

    @property
    def called(self) -> Any:
        """The method that is called, on its channel."""
        ...

    def cancel(self) -> bool:
        """End it now; False if it had ended."""
        ...

    async def outcome(self) -> Any:
        """Return when it has ended."""
        ...


class ClientCore:
    """Makes targets for channels and holds what they share, while the context is open.

    Attributes:
        tasks: Where background work runs.
        timeout: Seconds a unary call may take if the call gives no timeout; None for no limit.
        forwarded: Keys of request metadata that onward calls pass on.
        caller: Metadata in which calls say who makes them; None if the caller has no name.
        loop: The event loop in which calls are made.
        live: All calls in flight; this list keeps them alive.
        transport: Makes the connections.
        tls: Says which connections are encrypted; None before it is equipped.
        tracing: Makes spans of calls, for channels that are opened from now on; None for none.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self.live: set[LiveCall] = set()
        self.transport: ClientTransport = GrpcTransport()
        self.tls: ClientTls | None = None
        self.tracing: Tracing | None = None
        self.timeout: float | None = None
        self.forwarded: frozenset[str] = frozenset()
        self.caller: Metadata | None = None
        self.tasks = Tasks("pymicro client")
        self._selector: Selector | None = None
        self._methods: dict[tuple[Any, ...], Method] = {}
        self._followed: dict[_Key, _Followed] = {}
        self._told: set[str] = set()
        self._grpc: GrpcUse | None = None

    def equip(
        self,
        config: Config,
        selector: Selector,
        make_balancer: Callable[[Config], Balancer],
        describe: Callable[[str], str],
        *,
        watch_health: bool = False,
        record: Recorder | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        """Take what the configuration chose; call it before entering the context.

        Args:
            config: All settings.
            selector: Where node sets come from.
            make_balancer: Makes a balancer; called once for each target.
            describe: Says what is known of a service, for messages.
            watch_health: Whether to ask the nodes whether they are well, because nobody else says it.
            record: Where calls and nodes are counted; None counts none.
            tls: Says which connections are encrypted; None encrypts none. Its certificates are entered
                before this.
        """
        self._record = record
        self.tls = tls
        self.timeout = config.client_request_timeout or None
        self.forwarded = frozenset(name.lower() for name in config.forward_metadata)
        self.caller = _caller(config.server_name)
        if self.caller is not None:
            self.forwarded -= {FROM_SERVICE}  # we call, and not the service that called us
        if config.transport == "fast":
            self.transport = _fast()
        self._config = config
        self._selector = selector
        self._make_balancer = make_balancer
        self._describe = describe
        self._watch_health = watch_health

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self.tasks = Tasks("pymicro client")
        await self.tasks.__aenter__()
        self._pool = NodeChannels(self._config, self.tasks, self.transport, tls=self.tls)
        if self.tls is not None and self.tls.keeper is not None:
            self.tls.keeper.listen(self._renew)
        self._first_waits = FirstWaits(self._config.client_first_wait, self.loop.time)
        # Each client takes its own share of the nodes of a large service: drawn here, since a
        # client that is made before a fork is opened in each of the children.
        self._seed = secrets.token_hex(8)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.tls is not None and self.tls.keeper is not None:
            self.tls.keeper.unlisten(self._renew)
        for followed in self._followed.values():
            for reference in followed.channels:
                channel = reference()
                if channel is not None:
                    channel.forget()
        self._followed.clear()
        for call in list(self.live):
            call.cancel()
        try:
            await self.tasks.__aexit__(kind, exc, traceback)
        finally:
            await self._pool.close()
            if self._grpc is not None:
                self._grpc.end()
                self._grpc = None

    def _renew(self, identity: Identity) -> None:
        if not self.tasks.closed:
            self._pool.renew()

    def tell_not_forwarded(self, key: str, why: str) -> None:
        """Say once for each key of `forwarded` that metadata could not go along."""
        if key not in self._told:
            self._told.add(key)
            log.warning("not forwarded: %s (said once for each key)", why)

    def method(self, *parts: Any) -> Method:
        """The one shared object of a method, equal to `Method(*parts)`."""
        try:
            found = self._methods.get(parts)
        except TypeError:  # a serializer that cannot be hashed
            return Method(*parts, shared=False)
        if found is None:
            # A serializer made anew for each stub would fill the table without end.
            found = Method(*parts, shared=len(self._methods) < MOST_METHODS)
            if found.shared:
                self._methods[parts] = found
        return found

    def target(
        self,
        channel: Opened,
        service: str,
        which: Filter,
        options: ChannelOptions,
        fixed: FixedNodes | None = None,
    ) -> Target:
        """The target for calls of `channel`, which follows the service's nodes from now on.

        Args:
            channel: It is told when the client is closed.
            service: The service's name.
            which: Which of its nodes.
            options: Of the connections.
            fixed: Where the nodes come from instead of the client's selector, if not None.

        Raises:
            PymicroError: The client is not open, or not in the event loop that runs here; or
                this process was forked after gRPC was used, or another of its loops has gRPC.
        """
        use_grpc()
        if self._selector is None or self.tasks.closed:
            raise PymicroError(
                f"the client of the channel to {service} is not open: "
                "call inside `async with client:` or while the service runs"
            )
        if _get_running_loop() is not self.loop:
            raise wrong_loop(service)
        if self._grpc is None and self._config.transport != "fast":
            self._grpc = use_grpc_here(f"calls to {service}")
        key = service, which, options, fixed
        followed = self._followed.get(key)
        if followed is None:
            config = self._config
            selector = fixed or self._selector
            target = Target(
                service,
                which,
                selector,
                Chooser(
                    self._make_balancer(config),
                    ejection=config.outlier_ejection == "on",
                    zone=config.zone,
                    slow_start=config.slow_start,
                ),
                self._pool,
                options,
                partial(selector.describe if fixed else self._describe, service),
                Subset(config.subset_size, self._seed),
                RetryPolicy(config.client_retries) if config.client_retries else None,
                self._first_waits.of(service),
                max(CONNECT_AHEAD, config.subset_size),
                record=self._record.target(service) if self._record is not None else None,
            )
            if self._watch_health or fixed is not None:
                target.watch_health(self.tasks)
            task = self.tasks.start(target.follow(), f"nodes of {service}")
            followed = self._followed[key] = _Followed(target, task)
        followed.channels.add(weakref.ref(channel, partial(self._left, key)))
        return followed.target

    @property
    def targets(self) -> tuple[Target, ...]:
        """Those that are followed."""
        return tuple(followed.target for followed in self._followed.values())

    @property
    def leaving(self) -> tuple[NodeChannel, ...]:
        """Connections to nodes that have left, on which calls go on."""
        return () if self.tasks.closed else self._pool.leaving

    def _left(self, key: _Key, channel: weakref.ref[Opened]) -> None:
        """A channel, its stubs and its calls are gone; any thread may be told."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._unheld, key, channel, context=Context())

    def _unheld(self, key: _Key, channel: weakref.ref[Opened]) -> None:
        followed = self._followed.get(key)
        if followed is not None:
            followed.channels.discard(channel)
            if not followed.channels:
                self.loop.call_later(LINGER, self._let_go, key, followed, context=Context())

    def _let_go(self, key: _Key, followed: _Followed) -> None:
        """Follow a service no longer, if nobody has come back to it."""
        if not followed.channels and self._followed.get(key) is followed:
            del self._followed[key]
            followed.task.cancel()


class _Followed:
    """A target whose service is followed, and the channels that call it: each call holds its channel."""

    def __init__(self, target: Target, task: asyncio.Task[None]) -> None:
        self.target = target
        self.task = task
        self.channels: set[weakref.ref[Opened]] = set()


def _fast() -> ClientTransport:
    """The transport `fast`, whose package is an extra."""
    check_engine()
    from pymicro.calling.connections.fast import FastTransport

    return FastTransport()


def _caller(name: str) -> Metadata | None:
    """go-micro's header with the caller's name; None if there is no name, or none that can be sent."""
    if not name:
        return None
    try:
        return Metadata(*checked([(FROM_SERVICE, name)]))
    except ValueError:
        return None
