"""One connection to one node, shared by everybody that calls that node."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable
from functools import partial

import grpc

from pymicro.base.errors import ConfigError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.base.recorder import TargetRecord
from pymicro.base.tasks import Tasks
from pymicro.calling.connections.client_tls import ClientTls, Secured
from pymicro.calling.connections.method import Method
from pymicro.calling.connections.options import ChannelOptions
from pymicro.calling.connections.transport import ClientTransport, NodeConnection, StartCall
from pymicro.nodes.node import Node
from pymicro.rpc.status import Unavailable
from pymicro.settings.config import Config

__all__ = ["NodeChannel", "NodeChannels"]

log = logger("pymicro.client")

# Channels made in one turn of the loop: one takes 40 us, and a thousand at once would
# block every call for 40 ms.
CHANNELS_A_TURN = 50
# Of many nodes this many are connected at once, so that no call waits. The others follow within
# SPREAD seconds, in steps of STEP. Each client takes them in another order and at another pace.
# Otherwise a thousand clients that restart together would meet at one node after the other, and
# each connection costs both ends a handshake.
AT_ONCE = 10
SPREAD = 1.0
STEP = 0.05

# Connections are told apart by the service too: its name is what a certificate is checked for.
_Key = tuple[ChannelOptions, str, str]

_READY = grpc.ChannelConnectivity.READY
_IDLE = grpc.ChannelConnectivity.IDLE
_FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE
_SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN


class NodeChannel:
    """A node's connection: made when asked for, watched, and closed after its last call.

    Attributes:
        node: The node that is called.
        service: What is called there, by the caller's word.
        connection: The connection; None before somebody needs it.
        pickable: Whether a call may start now: the channel is READY, or it was READY
            and fell to IDLE (then it is being connected again).
        failed: Whether the last attempt to connect failed.
        state: The last state that grpc-core reported; None before `connect`.
        changes: How often the state has changed.
        readies: How often it was READY, as far as can be told. This and `ready()` tell
            whether a call can have been sent, never the text of an error.
        since: The moment of the last change of `state`, on the loop's clock.
        calls: How many calls started here have not ended.
        successor: The channel that takes its place, since that one is READY and this one encrypted with a
            certificate that was replaced. Whoever holds this one acquires and releases anew.
        said: By path, whether the peer marked the method as one that may run twice, as far
            as it has answered on this connection. The next connection begins with another
            dictionary: it may lead to another process, of another version or service.
    """

    __slots__ = (
        "_bound",
        "_broken",
        "_closed",
        "_config",
        "_listeners",
        "_made_as",
        "_options",
        "_record",
        "_tasks",
        "_tls",
        "_transport",
        "_watch",
        "calls",
        "changes",
        "connection",
        "failed",
        "node",
        "pickable",
        "readies",
        "retired",
        "said",
        "service",
        "since",
        "state",
        "successor",
    )

    def __init__(
        self,
        node: Node,
        service: str,
        config: Config,
        options: ChannelOptions,
        tasks: Tasks,
        transport: ClientTransport,
        closed: Callable[[NodeChannel], None],
        record: TargetRecord | None,
        tls: ClientTls | None = None,
    ) -> None:
        self.service = service
        self._record = record
        self._tls = tls
        self._made_as: Secured | ConfigError | None = None
        self.successor: NodeChannel | None = None
        self.node = node
        self.pickable = False
        self.failed = False
        self.retired = False
        self.state: grpc.ChannelConnectivity | None = None
        self.since = 0.0
        self.calls = 0
        self.said: dict[str, bool] = {}
        self.changes = 0
        self.readies = 0
        self._config = config
        self._options = options
        self._tasks = tasks
        self._transport = transport
        self._closed = closed
        self.connection: NodeConnection | None = None
        self._broken: Exception | None = None  # why it cannot be made
        self._watch: asyncio.Task[None] | None = None
        self._bound: dict[Method, StartCall] = {}
        self._listeners: list[Callable[[], None]] = []

    @property
    def broken(self) -> str:
        """Why no connection can be made at all; empty if one can."""
        return str(self._broken) if self._broken is not None else ""

    @property
    def lazy(self) -> bool:
        """Whether nobody has asked it to connect yet."""
        return self.connection is None and self._broken is None

    def ready(self) -> bool:
        """Whether it is READY at this moment, by the transport's own account."""
        connection = self.connection
        return connection is not None and connection.state() is _READY

    def connect(self) -> None:
        """Make the connection and start connecting it, without waiting.

        One that cannot be made counts as failed, and raises nothing: others are next in line.
        """
        if not self.lazy or self.retired:
            return
        try:
            self._open()
        except Exception as exc:
            self._broken = exc
            self.failed = True
            log.warning(
                "node %s (%s) cannot be connected to: %s", self.node.id, excerpt(self.node.address), exc
            )
            for listener in list(self._listeners):
                listener()

    def _open(self) -> NodeConnection:
        wanted = self._made_as = self._wanted()
        if isinstance(wanted, ConfigError):
            raise wanted
        if wanted is None:
            connection = self._transport.open(self.node, self._config, self._options)
        else:
            connection = self._transport.open(self.node, self._config, self._options, wanted)
        self.connection = connection
        self.state = connection.state(True)
        self._watch = self._tasks.start(
            self._follow(connection, self.state), f"connection to {self.node.address}"
        )
        return connection

    async def _follow(self, connection: NodeConnection, state: grpc.ChannelConnectivity) -> None:
        while state is not _SHUTDOWN:
            self._saw(state)
            await connection.change(state)
            # After max_connection_age it goes IDLE and stays so: connect it again at once.
            state = connection.state(True)

    def _saw(self, state: grpc.ChannelConnectivity) -> None:
        previous, self.state = self.state, state
        self.since = asyncio.get_running_loop().time()
        self.changes += 1
        if self._record is not None:
            self._count(self._record, previous, state)
        if self.secured is not None and state is not previous:
            self._count_handshake(state)
        before = self.pickable, self.failed, self.readies
        if state is _READY:
            self.pickable, self.failed = True, False
            self._connected_anew()
        elif state is _FAILED:
            self.pickable, self.failed = False, True
        elif state is _IDLE:
            self.failed = False
            if previous is not _IDLE:
                # A channel falls to IDLE only from READY, which may have been too short to be seen.
                self._connected_anew()
        if before != (self.pickable, self.failed, self.readies):
            for listener in list(self._listeners):
                listener()

    def _count(
        self, record: TargetRecord, previous: grpc.ChannelConnectivity | None, state: grpc.ChannelConnectivity
    ) -> None:
        if state is not previous:
            record.connected += state is _READY
            record.failed += state is _FAILED
            record.disconnected += previous is _READY

    def _count_handshake(self, state: grpc.ChannelConnectivity) -> None:
        """Count how the attempt at an encrypted connection ended, if it did."""
        if self._tls is not None and self._tls.keeper is not None:
            if state is _READY:
                self._tls.keeper.called["ok"] += 1
            elif state is _FAILED:
                self._tls.keeper.called["failed"] += 1

    def _connected_anew(self) -> None:
        self.readies += 1
        # Not cleared: calls of the connection before keep what was said on that one.
        self.said = {}

    def bind(self, method: Method) -> StartCall:
        """What starts calls of `method` here, made once if the method is shared.

        Raises:
            Unavailable: The connection cannot be made.
        """
        try:
            return self._bound[method]
        except KeyError:
            if self._broken is not None:
                raise Unavailable(
                    f"node {self.node.id} cannot be connected to: {self._broken}", from_peer=False
                ) from self._broken
            connection = self.connection if self.connection is not None else self._open()
            bound = connection.bind(method)
            if method.shared:
                self._bound[method] = bound
            return bound

    def close_after_last(self) -> None:
        """A call has ended here, and the node has left: close if it was the last one."""
        if not self.calls:
            self._close_soon()

    def succeed(self) -> NodeChannel:
        """Another channel to the same node, not connected."""
        return NodeChannel(
            self.node,
            self.service,
            self._config,
            self._options,
            self._tasks,
            self._transport,
            self._closed,
            self._record,
            self._tls,
        )

    @property
    def outdated(self) -> bool:
        """Whether a connection that is made now would be encrypted in another way."""
        if self.lazy:
            return False
        wanted, made = self._wanted(), self._made_as
        if isinstance(wanted, ConfigError) or isinstance(made, ConfigError):
            return type(wanted) is not type(made)
        return wanted != made

    def _wanted(self) -> Secured | ConfigError | None:
        """How a connection that is made now is encrypted, or why there can be none."""
        try:
            return self._tls.of(self.node, self.service) if self._tls is not None else None
        except ConfigError as exc:
            return exc

    @property
    def secured(self) -> Secured | None:
        """How the connection is encrypted; None for plain text, and before it is made."""
        return self._made_as if isinstance(self._made_as, Secured) else None

    def give_way(self, successor: NodeChannel) -> None:
        """`successor` takes this one's place: tell those who listen."""
        self.successor = successor
        for listener in list(self._listeners):
            listener()

    @property
    def held(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change of `pickable`, `failed` or `readies`."""
        self._listeners.append(listener)

    def unlisten(self, listener: Callable[[], None]) -> bool:
        """Stop calling it; True if nobody listens any more."""
        self._listeners.remove(listener)
        return not self._listeners

    def retire(self) -> None:
        """The node has left: take no new calls, and close after the last one in flight."""
        self.retired = True
        self.pickable = False
        if not self.calls:
            self._close_soon()

    def _close_soon(self) -> None:
        if self.connection is None:
            self._closed(self)
        elif not self._tasks.closed:  # otherwise the code that ends the tasks closes us
            self._tasks.start(self.close(), f"close {self.node.address}")

    async def close(self) -> None:
        """End the connection; the calls on it have ended."""
        self.retired = True
        self.pickable = False
        self._bound.clear()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
            if self._record is not None and self.state is _READY:
                self._record.disconnected += 1
        if self.connection is not None:
            await self.connection.close()
        self._closed(self)


class NodeChannels:
    """The channels of one client; holders with equal options share one channel to a node.

    Args:
        config: All settings.
        tasks: Where connections are followed.
        transport: Makes them.
        rng: Draws the order in which they are made.
        tls: Says which are encrypted; None encrypts none.
    """

    def __init__(
        self,
        config: Config,
        tasks: Tasks,
        transport: ClientTransport,
        *,
        rng: random.Random | None = None,
        tls: ClientTls | None = None,
    ) -> None:
        self._tls = tls
        # Channels that will take the place of others once they are READY.
        self._coming: dict[_Key, tuple[NodeChannel, Callable[[], None]]] = {}
        self._config = config
        self._tasks = tasks
        self._transport = transport
        self._channels: dict[_Key, NodeChannel] = {}
        self._retired: set[NodeChannel] = set()
        self._rng = rng or random.Random()
        # Channels to connect in the next turns of the loop, and those to connect a little later.
        self._soon: dict[NodeChannel, None] = {}
        self._later: dict[NodeChannel, None] = {}
        self._pump: asyncio.Handle | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._spread_until = 0.0

    @property
    def leaving(self) -> tuple[NodeChannel, ...]:
        """Those whose nodes have left while calls on them go on."""
        return tuple(self._retired)

    def acquire(
        self,
        node: Node,
        options: ChannelOptions,
        listener: Callable[[], None],
        record: TargetRecord | None = None,
        *,
        service: str = "",
    ) -> NodeChannel:
        """The channel to `node`; made, but not connected, if nobody holds it yet.

        Args:
            node: Whom to call.
            options: Of the connection.
            listener: Called after each change.
            service: What is called there, by the caller's word.
            record: Where its connections are counted, if it is made.
        """
        key = options, node.key, service
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = NodeChannel(
                node,
                service,
                self._config,
                options,
                self._tasks,
                self._transport,
                self._retired.discard,
                record,
                self._tls,
            )
        channel.listen(listener)
        return channel

    def release(self, channel: NodeChannel, options: ChannelOptions, listener: Callable[[], None]) -> None:
        """Give a channel back; its last holder retires it."""
        if channel.unlisten(listener):
            self._let_go((options, channel.node.key, channel.service), channel)

    def _let_go(self, key: _Key, channel: NodeChannel) -> None:
        """Nobody holds a channel any more."""
        if self._channels.get(key) is channel:
            del self._channels[key]
            if key in self._coming:
                self._retire(self._coming.pop(key)[0])
        elif channel.successor is not None and not channel.successor.held:
            self._let_go(key, channel.successor)
        self._retire(channel)

    def _retire(self, channel: NodeChannel) -> None:
        self._soon.pop(channel, None)
        self._later.pop(channel, None)
        self._retired.add(channel)
        channel.retire()

    def renew(self, channels: Iterable[NodeChannel] | None = None) -> None:
        """Make connections anew, beside those that stand, if they would be encrypted in another way now.

        Calls go on over the old connection until the new one is READY; calls that are on it then end
        there. So a certificate that a node does not accept costs no call, as long as it accepts the
        connection that stands.

        Args:
            channels: Only these; all if None.
        """
        only = None if channels is None else set(channels)
        made = []
        for key, channel in list(self._channels.items()):
            if (only is None or channel in only) and channel.outdated:
                if key in self._coming:
                    self._retire(self._coming.pop(key)[0])
                coming = channel.succeed()
                listener = partial(self._has_come, key, coming)
                coming.listen(listener)
                self._coming[key] = coming, listener
                made.append(coming)
                if not channel.pickable:
                    self._take_over(key)
        if made:
            self.connect_ahead(made)

    def _has_come(self, key: _Key, coming: NodeChannel) -> None:
        if coming.pickable and key in self._coming and self._coming[key][0] is coming:
            self._take_over(key)

    def _take_over(self, key: _Key) -> None:
        """Put the channel that is coming in the place of the one that is there."""
        coming, listener = self._coming.pop(key)
        coming.unlisten(listener)
        before, self._channels[key] = self._channels[key], coming
        before.give_way(coming)

    def connect_ahead(self, channels: Iterable[NodeChannel], *, hurry: bool = False) -> None:
        """Connect these channels in random order: some at once, the others spread over a second.

        A channel that is due already keeps its place.

        Args:
            channels: Channels of one service.
            hurry: Connect all at once, since a call waits and no other channel can take it.
        """
        if hurry:
            wanted = [channel for channel in channels if channel not in self._soon]
            for channel in wanted:
                self._later.pop(channel, None)
            self._soon.update(dict.fromkeys(wanted))
        else:
            wanted = [channel for channel in channels if not self.is_due(channel)]
            self._rng.shuffle(wanted)
            self._soon.update(dict.fromkeys(wanted[:AT_ONCE]))
            self._later.update(dict.fromkeys(wanted[AT_ONCE:]))
        loop = asyncio.get_running_loop()
        if self._pump is None and self._soon:
            self._pump = loop.call_soon(self._connect_some)
        if self._tick is None and self._later:
            self._spread_until = loop.time() + SPREAD * self._rng.uniform(0.5, 1.0)
            self._tick = loop.call_later(STEP * self._rng.random(), self._connect_next)

    def is_due(self, channel: NodeChannel) -> bool:
        """Whether it will be connected without another request."""
        return channel in self._later or channel in self._soon

    def _connect_some(self) -> None:
        self._pump = None
        if self._tasks.closed:
            return
        for channel in list(self._soon)[:CHANNELS_A_TURN]:
            del self._soon[channel]
            channel.connect()
        if self._soon:
            self._pump = asyncio.get_running_loop().call_soon(self._connect_some)

    def _connect_next(self) -> None:
        """Connect as many of the channels that can wait as keeps the pace; one timer serves them all."""
        self._tick = None
        loop = asyncio.get_running_loop()
        steps = max(1, math.ceil((self._spread_until - loop.time()) / STEP))
        for channel in list(self._later)[: math.ceil(len(self._later) / steps)]:
            del self._later[channel]
            self._soon[channel] = None
        if self._pump is None and self._soon:
            self._pump = loop.call_soon(self._connect_some)
        if self._later:
            self._tick = loop.call_later(STEP, self._connect_next)

    async def close(self) -> None:
        """End all connections."""
        for handle in (self._pump, self._tick):
            if handle is not None:
                handle.cancel()
        self._pump = self._tick = None
        self._soon.clear()
        self._later.clear()
        channels = [*self._channels.values(), *(one for one, _ in self._coming.values()), *self._retired]
        self._channels.clear()
        self._coming.clear()
        self._retired.clear()
        for channel in channels:
            await channel.close()
