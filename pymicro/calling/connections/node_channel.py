"""One connection to one node, shared by everybody that calls that node."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterable

import grpc

from pymicro.base.recorder import TargetRecord
from pymicro.base.tasks import Tasks
from pymicro.calling.connections.method import Method
from pymicro.calling.connections.options import ChannelOptions
from pymicro.calling.connections.transport import ClientTransport, NodeConnection, StartCall
from pymicro.nodes.node import Node
from pymicro.rpc.status import Unavailable
from pymicro.settings.config import Config

__all__ = ["NodeChannel", "NodeChannels"]

log = logging.getLogger("pymicro.client")

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

_READY = grpc.ChannelConnectivity.READY
_IDLE = grpc.ChannelConnectivity.IDLE
_FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE
_SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN


class NodeChannel:
    """A node's connection: made when asked for, watched, and closed after its last call.

    Attributes:
        node: The node that is called.
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
        "_options",
        "_record",
        "_tasks",
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
        "since",
        "state",
    )

    def __init__(
        self,
        node: Node,
        config: Config,
        options: ChannelOptions,
        tasks: Tasks,
        transport: ClientTransport,
        closed: Callable[[NodeChannel], None],
        record: TargetRecord | None,
    ) -> None:
        self._record = record
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
            log.warning("node %s (%r) cannot be connected to: %s", self.node.id, self.node.address, exc)
            for listener in list(self._listeners):
                listener()

    def _open(self) -> NodeConnection:
        connection = self._transport.open(self.node, self._config, self._options)
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
    """The channels of one client; holders with equal options share one channel to a node."""

    def __init__(
        self, config: Config, tasks: Tasks, transport: ClientTransport, *, rng: random.Random | None = None
    ) -> None:
        self._config = config
        self._tasks = tasks
        self._transport = transport
        self._channels: dict[tuple[ChannelOptions, str], NodeChannel] = {}
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
    ) -> NodeChannel:
        """The channel to `node`; made, but not connected, if nobody holds it yet.

        Args:
            record: Where its connections are counted, if it is made.
        """
        key = options, node.key
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = NodeChannel(
                node, self._config, options, self._tasks, self._transport, self._retired.discard, record
            )
        channel.listen(listener)
        return channel

    def release(self, channel: NodeChannel, options: ChannelOptions, listener: Callable[[], None]) -> None:
        """Give a channel back; its last holder retires it."""
        if channel.unlisten(listener):
            del self._channels[options, channel.node.key]
            self._soon.pop(channel, None)
            self._later.pop(channel, None)
            self._retired.add(channel)
            channel.retire()

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
        channels = [*self._channels.values(), *self._retired]
        self._channels.clear()
        self._retired.clear()
        for channel in channels:
            await channel.close()
