"""One service's nodes: the watch asks for them, hears of them, and gives up silent ones.

Nodes are never announced again, and a killed one says no goodbye. So the watch asks: at
once, and then at intervals that grow to a quarter of a minute. If a node does not answer,
the watch asks again after 1, 2 and 4 seconds. A node leaves the set after four unanswered
questions in a row. That takes at least 8 s, in which one packet from the node would have
kept it: a lost packet, or a process that is busy for some seconds, removes nobody. If our
own process was busy, or multicast does not work, an answer that we did not hear counts for
nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from ipaddress import ip_address

from pymicro.base.endless import being_cancelled
from pymicro.base.errors import RegistryError
from pymicro.base.latest import Gathering, Latest
from pymicro.base.log_quota import LogQuota
from pymicro.base.loggers import logger
from pymicro.base.watches import WatchRecord
from pymicro.discovery.registries.mdns import text
from pymicro.discovery.registries.mdns.conversation import Conversation, MdnsTiming
from pymicro.discovery.registries.mdns.link import Address, Link
from pymicro.discovery.registries.mdns.messages import MdnsQuestion, Seen
from pymicro.discovery.registries.mdns.names import node_id, service_name
from pymicro.nodes.address import join_address
from pymicro.nodes.node import EMPTY, Node, NodeSet

__all__ = ["MdnsWatch"]

log = logger("pymicro.registry.mdns")

# The most nodes of one service, and the most bytes of their texts: a peer that claims more is none.
MOST_NODES = 1024
MOST_TEXT = 32 << 20


class _Subscription:
    """One watch: the sets it gets, and when its first set is whole."""

    def __init__(self) -> None:
        self.latest: Latest[NodeSet] = Latest()
        self.told = False


@dataclass(slots=True)
class _KnownNode:
    """A node and the last news of it.

    Attributes:
        seen: The whole content of its message; the same content means the same node.
        size: Bytes of its text, unpacked.
        source: The host that the message came from.
        at: When the message came.
        missed: Questions since then that the node left unanswered.
        rivals: Other addresses that answered the same question for this name.
    """

    node: Node
    seen: Seen
    size: int
    source: str
    at: float
    missed: int = 0
    rivals: frozenset[str] = frozenset()


class MdnsWatch(Conversation):
    """One service that is watched.

    Args:
        link: The link, which is open.
        timing: How often it asks and how long it waits.
        service: Its name.
        complain: Told of each message that is passed over, and why.
        gone: Says which nodes are gone.
        record: Where it writes down how it fares; it ends it.
    """

    def __init__(
        self,
        link: Link,
        timing: MdnsTiming,
        service: str,
        complain: Callable[[Address, str], None],
        gone: LogQuota,
        record: WatchRecord,
    ) -> None:
        super().__init__(link, timing, MdnsQuestion(service_name(service)))
        self.service = service
        self._subscriptions: list[_Subscription] = []
        self._joined = asyncio.Event()
        self._complain = complain
        self._gone = gone
        self._record = record
        self._works = False
        self._entries: dict[str, _KnownNode] = {}
        self._set = EMPTY
        self._changed = False
        self._gathering = Gathering(self._publish, timing.gather)
        # When we asked the oldest question that has not been judged.
        self._asked: float | None = None

    async def follow(self) -> AsyncGenerator[NodeSet, None]:
        """The nodes; the first set comes from a question sent after this moment.

        Raises:
            RegistryError: No more questions can be sent.
        """
        subscription = _Subscription()
        self._subscriptions.append(subscription)
        self._joined.set()
        try:
            async for nodes in subscription.latest.follow():
                yield nodes
        finally:
            self._subscriptions.remove(subscription)

    def found(self) -> bool:
        """Whether any node is known."""
        return bool(self._entries)

    async def run(self) -> None:
        """Ask until cancelled."""
        try:
            await self._run()
        except RegistryError as exc:
            self._write_down(exc)
            self.fail(exc)
        except (Exception, asyncio.CancelledError) as exc:
            if being_cancelled():
                raise
            # This is a bug of ours; the watches must not wait for ever.
            log.exception("watching %s failed", self.service)
            self.fail(RegistryError(f"registry mdns: {type(exc).__name__}: {exc}"))
        finally:
            self._record.end()
            self._gathering.cancel()

    def _write_down(self, error: RegistryError) -> None:
        if self._works:
            self._record.cut("multicast", str(error))
        else:
            self._record.failed(str(error))

    async def _run(self) -> None:
        pause = self.timing.first
        while True:
            self._joined.clear()
            asked = self.ask()
            self._asked = self._asked or asked
            newcomers = [one for one in self._subscriptions if not one.told]
            if newcomers:
                await self.wait_for_answers(asked)
                if not self._works:
                    self._works = True
                    self._record.listed()
                    self._record.opened()
                for one in newcomers:
                    one.told = True
                self._gathering.now()
                pause = self.timing.first
            due = self._asked + self.timing.answer
            if await self._somebody_joins(due) and asyncio.get_running_loop().time() < due:
                continue
            missed = self._judge()
            if missed:
                # Ask again after 1, 2 and 4 times the answer's time, of which one has passed.
                rest = self.timing.answer * (2 ** (missed - 1) - 1)
            else:
                rest = pause * random.uniform(0.9, 1.1)
                pause = min(pause * 2, self.timing.longest)
            await self._somebody_joins(asyncio.get_running_loop().time() + rest)

    async def _somebody_joins(self, until: float) -> bool:
        try:
            async with asyncio.timeout_at(until):
                await self._joined.wait()
                return True
        except TimeoutError:
            return False

    def hear(self, seen: Seen, source: Address) -> None:
        """Take in a message about a node that may belong to our service."""
        self.answers += 1
        self._record.heard()
        now = asyncio.get_running_loop().time()
        entry = self._entries.get(seen.name)
        if not seen.ttl:
            if entry is not None:
                del self._entries[seen.name]
                self._change()
        elif entry is not None and entry.seen == seen:
            entry.at, entry.missed = now, 0
        elif seen.port and seen.addresses and seen.text is not None:
            try:
                said = text.load(seen.text)
                if said.service != self.service:
                    return
                self._make_room(seen.name, said.size, source[0])
                node = Node(
                    node_id(seen.name, self.service),
                    join_address(self._address(seen, source), seen.port),
                    self.service,
                    said.version,
                    said.metadata,
                    said.endpoints,
                )
            except ValueError as exc:
                self._complain(source, str(exc))
                return
            known = _KnownNode(node, seen, said.size, source[0], now)
            if entry is not None and entry.at >= (self._asked or now) and entry.node.address != node.address:
                # One question, two answers: they are two processes, and both run.
                known.rivals = entry.rivals | {entry.node.address}
            self._entries[seen.name] = known
            self._change()

    def doubles(self) -> dict[str, list[str]]:
        """Ids for which several answered one question, and their addresses."""
        return {
            entry.node.id: sorted({*entry.rivals, entry.node.address})
            for entry in self._entries.values()
            if entry.rivals
        }

    def forget(self, name: str) -> None:
        """Remove the node of this name, which is gone."""
        if self._entries.pop(name, None) is not None:
            self._change()

    def _make_room(self, name: str, size: int, source: str) -> None:
        """See that one more node can be kept; a host with many loses one to a host with fewer.

        Raises:
            ValueError: There are too many nodes, or too many bytes.
        """
        others = {known: entry for known, entry in self._entries.items() if known != name}
        in_all = sum(entry.size for entry in others.values())
        while len(others) >= MOST_NODES or in_all + size > MOST_TEXT:
            hosts = Counter(entry.source for entry in others.values())
            greedy, count = hosts.most_common(1)[0] if hosts else ("", 0)
            if count <= hosts[source] + 1:
                raise ValueError(f"{self.service} has more than {len(others)} nodes, which are the most")
            # The one that came last.
            gone = next(known for known in reversed(others) if others[known].source == greedy)
            in_all -= others.pop(gone).size
            del self._entries[gone]
            self._change()

    def _address(self, seen: Seen, source: Address) -> str:
        interface = self.link.interface
        for address in seen.addresses:
            ip = ip_address(address)
            if ip.is_unspecified or ip.is_multicast or (ip.version == 6 and ip.is_link_local):
                continue
            # Another machine's loopback address would lead to ourselves.
            if ip.is_loopback and not interface.loopback and source[0] != interface.address:
                continue
            return address
        raise ValueError(f"address {seen.addresses[0]} cannot be dialled from here")

    def _judge(self) -> int:
        """Count the nodes that did not answer, remove the silent ones; returns the longest silence."""
        asked, self._asked = self._asked, None
        assert asked is not None
        timing = self.timing
        now = asyncio.get_running_loop().time()
        if now - asked > 1.5 * timing.answer:
            return 1  # this process was busy, and unread answers may be waiting: ask again at once
        if self.link.echoed < asked:
            raise self.link.doubt()
        self._record.heard()
        longest = 0
        for name, entry in list(self._entries.items()):
            if entry.at >= asked:
                continue
            entry.missed += 1
            if entry.missed < timing.unanswered and now < entry.at + entry.seen.ttl:
                longest = max(longest, entry.missed)
                continue
            text = "%s at %s has not answered for %.1f s: it is gone"
            self._gone.say(logging.INFO, text, entry.node.service, entry.node.address, now - entry.at)
            del self._entries[name]
            self._changed = True
        self._gathering.now()
        return longest

    def _change(self) -> None:
        self._changed = True
        self._gathering.later()

    def _publish(self) -> None:
        if self._changed:
            self._changed = False
            self._set = NodeSet.of(entry.node for entry in self._entries.values())
        for one in self._subscriptions:
            if one.told:
                one.latest.set(self._set)

    def fail(self, error: RegistryError) -> None:
        """End every watch with `error`."""
        for one in self._subscriptions:
            one.latest.close(error)
