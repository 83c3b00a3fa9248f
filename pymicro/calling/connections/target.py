"""What a channel's calls choose from: one service's nodes, their channels and a balancer."""

from __future__ import annotations

import asyncio
import time
from asyncio import _get_running_loop
from collections.abc import Callable, Mapping, Set
from contextvars import Context
from dataclasses import dataclass, field
from itertools import islice

import grpc

from pymicro.balancing.balancer import CANCELLED, CallInfo, Pick
from pymicro.balancing.chooser import Chooser
from pymicro.balancing.policy.budget import Budget
from pymicro.balancing.policy.retry import RetryPolicy
from pymicro.balancing.policy.subset import Subset
from pymicro.base.backoff import Backoff
from pymicro.base.closing import closing
from pymicro.base.errors import ConfigError, NoNode, PymicroError, RegistryError
from pymicro.base.forks import refuse_after_fork
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.base.recorder import TargetRecord
from pymicro.base.tasks import Tasks
from pymicro.calling.connections.dialled import Dialled
from pymicro.calling.connections.first_wait import FirstWait
from pymicro.calling.connections.node_channel import NodeChannel, NodeChannels
from pymicro.calling.connections.node_health import NodeHealths
from pymicro.calling.connections.options import ChannelOptions
from pymicro.discovery.selector import Selector
from pymicro.nodes.node import EMPTY, Node, NodeSet, differing
from pymicro.nodes.wellknown import others_text
from pymicro.rpc.status import DeadlineExceeded, Unavailable

__all__ = ["Filter", "PickedChannel", "Target", "wrong_loop"]

log = logger("pymicro.client")

# Beyond this many nodes, a node is connected when it is first picked: a thousand connected
# channels take 39 MB here and as many sockets on the other side.
CONNECT_AHEAD = 100
# Seconds. A balancer's update is linear in the nodes: a hundred nodes that connect one by one
# must not cause a hundred updates.
UPDATE_INTERVAL = 0.01
# A call may pick nodes whose connection turns out not to be READY. It passes over this many
# before it takes one of them: each costs a pick, and the next update knows of them all.
UNREADY = 8
# Seconds between two lines that say that the retry budget is spent.
HELD_BACK_INTERVAL = 10.0
# Seconds after which a client that has not met a service yet has it looked up again.
LOOK_AGAIN = 0.25
# How many never connected nodes are offered to the balancer at a time: picking a node connects
# it, and the call that picked it goes on to a connected node.
OFFERED_UNCONNECTED = 16

# The pick, its node's channel, and whether that channel was READY.
PickedChannel = tuple[Pick, NodeChannel, bool]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which of a service's nodes a channel wants.

    Attributes:
        version: Nodes of exactly this version; any version if None.
        metadata: Nodes that have all of these pairs, in no particular order.
        endpoint: Nodes that have this endpoint, or do not say which they have.
    """

    version: str | None = None
    metadata: frozenset[tuple[str, str]] = frozenset()
    endpoint: str | None = None

    @classmethod
    def of(cls, version: str | None, metadata: Mapping[str, str] | None, endpoint: str | None) -> Filter:
        """A filter from the arguments of `channel()`."""
        return cls(version, frozenset((metadata or {}).items()), endpoint)

    def apply(self, nodes: NodeSet) -> NodeSet:
        """The nodes that pass the filter."""
        return nodes.select(self.version, dict(self.metadata), self.endpoint)

    def takes(self, node: Node) -> bool:
        """Whether a node passes the filter."""
        return bool(self.apply(NodeSet((node,))))

    def hidden(self) -> str:
        """The filter for others than its author: of metadata only the keys, since values may be secret."""
        parts = [f"version {excerpt(self.version)}"] if self.version is not None else []
        parts += [f"metadata {key}" for key in sorted({key for key, _ in self.metadata})]
        parts += [f"endpoint {self.endpoint}"] if self.endpoint is not None else []
        return " and ".join(parts)

    def __str__(self) -> str:
        parts = [f"version {excerpt(self.version)}"] if self.version is not None else []
        parts += [f"metadata {key}={value}" for key, value in sorted(self.metadata)]
        parts += [f"endpoint {self.endpoint}"] if self.endpoint is not None else []
        return " and ".join(parts)


def wrong_loop(service: str) -> PymicroError:
    """What to raise for a call outside the client's event loop: it says what to write instead."""
    refuse_after_fork()  # a child has another loop too, or none
    over = "hand it over with `asyncio.run_coroutine_threadsafe(coroutine, loop).result()`"
    if _get_running_loop() is None:
        return PymicroError(
            f"a call to {service} needs the event loop, and none runs in this thread: "
            f"make the function that calls `async def`, or {over}"
        )
    return PymicroError(
        f"a call to {service} was made in another event loop than its client's: "
        f"open a `Client` in this loop, or {over}"
    )


@dataclass(slots=True)
class Target:
    """Follows a service's node sets and picks a node, and its channel, for each call.

    A node that leaves gets no new call; its calls in flight finish. A node that
    arrives is connected ahead and joins when it is READY. `follow` must be
    running while calls are made.

    Attributes:
        nodes: The nodes to choose from; of a large service, this client's share. None
            before the first set.
        given: The last set as the selector gave it; None before the first.
        taken: When that was, on the loop's clock.
        ahead: How many nodes are connected before they are picked.
        retry: Which calls are retried, and when; None if no call is.
        first: How long calls wait for a service that the client has not met yet.
        budget: How many calls may be retried.
        healths: What the nodes say of their health; None where those that are not well leave.
        record: Where calls and nodes are counted; None if they are not.
        loop: The event loop in which calls are made.
    """

    service: str
    filter: Filter
    selector: Selector
    chooser: Chooser
    pool: NodeChannels
    options: ChannelOptions
    describe: Callable[[], str]
    subset: Subset
    retry: RetryPolicy | None
    first: FirstWait
    ahead: int = CONNECT_AHEAD
    budget: Budget = field(default_factory=Budget)
    healths: NodeHealths | None = None
    record: TargetRecord | None = None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    nodes: NodeSet | None = None
    given: NodeSet | None = None
    taken: float = 0.0
    channels: dict[str, NodeChannel] = field(default_factory=dict)
    _dialled: Dialled = field(default_factory=Dialled)
    _readies: dict[str, int] = field(default_factory=dict)
    _held_back: float = float("-inf")
    _told_broken: float = float("-inf")
    _any_pickable: bool = False
    _unfiltered: int = 0
    _error: str = ""
    _broken: bool = False
    _waiters: set[asyncio.Future[None]] = field(default_factory=set)
    _scheduled: asyncio.TimerHandle | None = None
    _updated: float = float("-inf")
    _look_again: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self.chooser.changed = self._changed
        self.chooser.record = self.record

    def watch_health(self, tasks: Tasks) -> None:
        """Ask the nodes themselves whether they are well, as long as they are connected."""
        self.healths = NodeHealths(tasks, self._changed)

    # Following the node sets

    async def follow(self) -> None:
        """Take every node set that the selector gives, until cancelled."""
        backoff = Backoff(0.1, 5.0, floor=0.05)
        try:
            while True:
                try:
                    async with closing(self.selector.watch(self.service)) as watch:
                        async for nodes in watch:
                            self._error, self._broken = "", False
                            self._take(nodes)
                            backoff.reset()
                    self._error = "the watch ended"
                except ConfigError as exc:
                    # For example a package is missing: no call succeeds until somebody mends that.
                    if not self._broken:
                        log.error("%s: %s", self.service, exc)
                    self._broken = True
                    self._error = str(exc)
                    self.wake()
                except RegistryError as exc:
                    # Keep the last set: yesterday's nodes beat none at all.
                    if self._error != str(exc):
                        log.warning("%s: %s; trying again", self.service, exc)
                    self._error = str(exc)
                except Exception as exc:
                    # A user's plug-in failed; its bug must not end every call of this client.
                    log.exception("%s: selector %s failed; trying again", self.service, self.selector.name)
                    self._error = f"{type(exc).__name__}: {exc}"
                await asyncio.sleep(backoff.next())
        finally:
            self._close()

    def _take(self, nodes: NodeSet) -> None:
        self.given, self.taken = nodes, self.loop.time()
        nodes = self._dialled.of(nodes)
        self._unfiltered = len(nodes)
        nodes = self.subset.choose(self.filter.apply(nodes))
        if nodes == self.nodes:
            return
        gone, present = differing(self.nodes or EMPTY, nodes)
        self.nodes = nodes
        keys = {node.key for node in present}
        record = self.record
        for node in gone:
            if node.key not in keys:
                self.pool.release(self.channels.pop(node.key), self.options, self._changed)
                if record is not None:
                    record.removed += 1
        for node in present:
            channel = self.channels.get(node.key)
            if channel is None:
                self.channels[node.key] = self.pool.acquire(
                    node, self.options, self._changed, record, service=self.service
                )
                if record is not None:
                    record.added += 1
            else:
                channel.node = node  # the same node, perhaps with other metadata
                if channel.outdated:
                    self.pool.renew((channel,))
        connected = sum(not channel.lazy for channel in self.channels.values())
        self._connect_more(self.ahead - connected)
        # At once: calls may be waiting, and a node that has left costs each pick another try.
        self._update()

    def _connect_more(self, count: int = CONNECT_AHEAD, *, hurry: bool = False) -> None:
        if count > 0:
            lazy = (channel for channel in self.channels.values() if channel.lazy)
            self.pool.connect_ahead(islice(lazy, count), hurry=hurry)

    def _changed(self) -> None:
        """A channel became pickable or stopped being so."""
        if self._scheduled is None:
            loop = asyncio.get_running_loop()
            self._scheduled = loop.call_at(max(loop.time(), self._updated + UPDATE_INTERVAL), self._update)

    def _update(self) -> None:
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        self._updated = asyncio.get_running_loop().time()
        nodes = self.nodes or EMPTY
        channels = self.channels
        self._take_successors()
        self._any_pickable = any(channel.pickable for channel in channels.values())
        self.first.met |= self._any_pickable
        unwell = self._unwell()
        reachable = nodes
        if self._any_pickable:
            offered: list[Node] = []
            unconnected = OFFERED_UNCONNECTED
            for node in nodes:
                channel = channels[node.key]
                if channel.pickable:
                    if node.key not in unwell:
                        offered.append(node)
                elif channel.lazy and unconnected and not self.pool.is_due(channel):
                    unconnected -= 1
                    offered.append(node)
            reachable = NodeSet(tuple(offered))
        elif all(channel.failed or channel.lazy for channel in channels.values()):
            # No hurry before the first channels have failed: they are being connected.
            self._connect_more(hurry=any(channel.failed for channel in channels.values()))
        self._tell_reconnected()
        failed = sum(channel.failed for channel in channels.values())
        self.chooser.update(nodes, reachable, failed)
        self.wake()

    def _take_successors(self) -> None:
        """Go over to the connections that have taken the place of others."""
        for key, channel in self.channels.items():
            if channel.successor is not None:
                self.channels[key] = self.pool.acquire(
                    channel.node, self.options, self._changed, self.record, service=self.service
                )
                self.pool.release(channel, self.options, self._changed)

    def _unwell(self) -> Set[str]:
        """The keys of connected nodes to pass over, since they say that they are not well; never of all."""
        if self.healths is None:
            return frozenset()
        self.healths.follow(self.channels)
        unwell = self.healths.unwell
        if unwell and all(key in unwell for key, channel in self.channels.items() if channel.pickable):
            return frozenset()
        return unwell

    def _tell_reconnected(self) -> None:
        """Tell the chooser: a node that was ejected and connected again may be another process now."""
        before, self._readies = self._readies, {}
        for key in self.chooser.ejected:
            channel = self.channels.get(key)
            if channel is not None:
                self._readies[key] = channel.readies
                if before.get(key, channel.readies) != channel.readies:
                    self.chooser.reconnected(key)

    def wake(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _close(self) -> None:
        for timer in (self._scheduled, self._look_again):
            if timer is not None:
                timer.cancel()
        self._scheduled = self._look_again = None
        for channel in self.channels.values():
            self.pool.release(channel, self.options, self._changed)
        self.channels = {}
        self.nodes = None
        self._update()

    # For people

    @property
    def error(self) -> str:
        """Why the selector gives no sets any more; empty while it does."""
        return self._error

    def not_dialled(self, key: str) -> str:
        """The protocol that a node speaks, if it is another than gRPC; else empty."""
        return self._dialled.others.get(key, "")

    # Picking

    def pick(self, call: CallInfo) -> PickedChannel | None:
        """A node to call now; None if there is none, or if the call must wait for one."""
        if not self._any_pickable:
            return None
        pick_one, channels = self.chooser.pick, self.channels
        second_best: PickedChannel | None = None
        misses = 0
        while True:
            try:
                pick = pick_one(call)
            except NoNode:
                return second_best
            channel = channels.get(pick.node.key)
            if channel is not None and channel.pickable:
                # Ask grpc-core now: its last report may be a turn of the loop old.
                if channel.ready():
                    if second_best is not None:
                        self.chooser.done(second_best[0], CANCELLED)
                    return pick, channel, True
                if second_best is None:
                    second_best = pick, channel, False
                else:
                    self.chooser.done(pick, CANCELLED)
                misses += 1
                if misses == UNREADY:
                    return second_best
            else:
                self.chooser.done(pick, CANCELLED)
                if channel is not None:
                    channel.connect()
            if pick.node.key in call.tried:  # a plug-in's balancer that offers a node again and again
                return second_best
            # It is not connected yet, or lost its connection after the last update: pick another one.
            call = CallInfo(call.method, call.tried | {pick.node.key}, call.streams)

    async def wait(self, call: CallInfo, deadline: float | None, wait_for_ready: bool) -> PickedChannel:
        """A node to call as soon as there is one.

        Args:
            call: The call that needs a node.
            deadline: A moment of the loop's clock; None waits for ever.
            wait_for_ready: Wait for a node even if that may take long: none is
                listed, or none can be reached. Without it such calls wait only as long as
                `first` says.

        Raises:
            Unavailable: There is no node, or no node can be reached.
            DeadlineExceeded: The deadline passed first.
        """
        while True:
            found = self.pick(call)
            if found is not None:
                return found
            if self.nodes is not None and not wait_for_ready and not self._first_wait_lasts():
                if not self.nodes:
                    raise Unavailable(f"no node for {self.service}: {self.known}", from_peer=False)
                if all(channel.failed for channel in self.channels.values()):
                    self.selector.refresh(self.service)
                    return self._least_bad(call)
            if self.nodes is None and self._broken:
                raise Unavailable(f"no node for {self.service}: {self._error}", from_peer=False)
            try:
                async with asyncio.timeout_at(deadline):
                    await self.change()
            except TimeoutError:
                raise DeadlineExceeded(
                    f"no node for {self.service} in time: {self.known}", from_peer=False
                ) from None

    def _first_wait_lasts(self) -> bool:
        """Whether calls wait since the service is new to this client; it is looked up again while they do."""
        now = self.loop.time()
        if not self.first.lasts(now):
            return False
        if self._look_again is None:
            self._look_again = self.loop.call_at(
                min(now + LOOK_AGAIN, self.first.until), self._ask_again, context=Context()
            )
        return True

    def _ask_again(self) -> None:
        self._look_again = None
        self.selector.refresh(self.service)
        self.wake()

    def _least_bad(self, call: CallInfo) -> PickedChannel:
        """Any node, although none is connected: grpc-core fails the call and gives the reason."""
        if self._scheduled is not None:
            self._update()  # the chooser must know all current nodes, not those of 10 ms ago
        pick = self.chooser.pick(call)
        return pick, self.channels[pick.node.key], False

    def may_retry(self) -> bool:
        """Take one retry from the budget; return False, and log it at times, if the budget is spent."""
        now = time.monotonic()
        if self.budget.spend(now):
            return True
        if self.record is not None:
            self.record.unretried += 1
        if now - self._held_back > HELD_BACK_INTERVAL:
            log.warning(
                "%s: more calls fail than may be tried again (a fifth of those that succeed); "
                "the others fail at their first attempt",
                self.service,
            )
            self._held_back = now
        return False

    def balancer_failed(self, error: Exception) -> None:
        """Say, now and then, that the balancer cannot be told how a call ended."""
        now = time.monotonic()
        if now - self._told_broken > HELD_BACK_INTERVAL:
            self._told_broken = now
            log.error("%s: the balancer failed at the end of a call", self.service, exc_info=error)

    async def change(self) -> None:
        """Wait until something about the nodes or their channels has changed."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    @property
    def known(self) -> str:
        """What is known of the nodes, for messages."""
        if self.nodes is None:
            return self._error or self.describe()
        if not self.nodes:
            text = self.describe()
            others = self._dialled.others
            if others:
                text += f"; {others_text(others.values())}"
            if self._unfiltered:
                text += f"; none of the {'other ' if others else ''}{self._unfiltered} has {self.filter}"
            return text
        failed = sum(channel.failed for channel in self.channels.values())
        lost = f"{failed} cannot be reached and " if failed else ""
        text = f"of {len(self.nodes)} nodes {lost}none is connected"
        addresses = ", ".join(node.address for node in self.nodes.nodes[:5])
        return f"{text} ({addresses}{', …' if len(self.nodes) > 5 else ''})"

    @property
    def connectivity(self) -> grpc.ChannelConnectivity:
        """The state of the best node."""
        states = {channel.state for channel in self.channels.values()}
        for state in (
            grpc.ChannelConnectivity.READY,
            grpc.ChannelConnectivity.CONNECTING,
            grpc.ChannelConnectivity.IDLE,
            grpc.ChannelConnectivity.TRANSIENT_FAILURE,
        ):
            if state in states:
                return state
        return (
            grpc.ChannelConnectivity.CONNECTING
            if self.nodes is None
            else grpc.ChannelConnectivity.TRANSIENT_FAILURE
        )
