"""Our own nodes: it announces them, answers for them, and takes them back."""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pymicro.base.errors import ConfigError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.discovery.registries.mdns import text
from pymicro.discovery.registries.mdns.link import Address, Link
from pymicro.discovery.registries.mdns.messages import (
    ANY,
    PTR,
    SRV,
    TXT,
    Answer,
    Instance,
    MdnsQuestion,
    Query,
    write_answer,
)
from pymicro.discovery.registries.mdns.names import (
    SERVICES,
    id_problem,
    instance_name,
    listed_name,
    service_name,
    service_problem,
)
from pymicro.nodes.address import is_ip, split_address
from pymicro.nodes.node import Node

__all__ = ["Responder"]

log = logger("pymicro.registry.mdns")

# Seconds after its first announcement when a new node is announced again, as go-micro does.
ANNOUNCED = (1.0, 3.0)

# Least seconds between two announcements that only contradict a goodbye (RFC 6762 6).
RESCUE = 1.0

# Answers sent before other tasks get their turn, and the pause then. Three hundred nodes
# must not fill an asker's buffer at once, and yet must answer within go-micro's 100 ms.
_BURST = 16
_PAUSE = 0.001

# If we drop an asker's question, it asks again.
_MOST_PENDING = 8192
_MOST_QUESTIONS = 64

# The other fields of a service's entry in the list; go-micro's reader wants all of them.
_LISTED_PORT = 9999
# A neighbour may claim our name from any number of addresses.
_MOST_RIVALS = 4

_LISTED_ADDRESS = "0.0.0.0"  # noqa: S104, RUF100


@dataclass(slots=True, eq=False)
class _OwnName:
    """A name that we answer for; if a name has several objects, the newest counts."""

    instance: Instance
    node: Node | None = None
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    rescue: asyncio.TimerHandle | None = None
    rescued: float = -RESCUE
    gone: bool = False
    # Where others answered for it from, as far as it was said.
    rivals: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Pending:
    published: _OwnName
    to: Address | None = None
    pointer: str = ""
    question: MdnsQuestion | None = None
    id: int = 0


class Responder:
    """Answers for the nodes of this process, on an open link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        # The service's DNS name → the node's DNS name → the node.
        self._nodes: dict[str, dict[str, _OwnName]] = {}
        self._listed: dict[str, _OwnName] = {}
        self._pending: deque[_Pending] = deque()
        self._pump_handle: asyncio.TimerHandle | None = None

    @property
    def nodes(self) -> list[Node]:
        """All registered nodes."""
        return [
            published.node for nodes in self._nodes.values() for published in nodes.values() if published.node
        ]

    def publish(self, node: Node) -> None:
        """Answer for `node` from now on; announce it if it is new or has changed.

        Raises:
            ConfigError: mdns cannot carry the node.
        """
        service = service_name(node.service)
        name = instance_name(node.id, node.service)
        before = self._nodes.get(service, {}).get(name)
        if before is not None and before.node == node:
            return
        published = _OwnName(_instance(node), node)
        if not node.version:
            log.info("%s has no version: watchers of go-micro's pass over it", node.service)
        if before is not None:
            self._retire(before)
        self._nodes.setdefault(service, {})[name] = published
        if node.service not in self._listed:
            listed = Instance(listed_name(node.service), host_name(), _LISTED_PORT, _LISTED_ADDRESS)
            self._listed[node.service] = _OwnName(listed)
        self._announce(published)
        published.timers = [_later(seconds, self._announce, published) for seconds in ANNOUNCED]

    def withdraw(self, node: Node) -> None:
        """Stop answering for `node`, and tell everybody that it is gone."""
        service = service_name(node.service)
        nodes = self._nodes.get(service, {})
        published = nodes.pop(instance_name(node.id, node.service), None)
        if published is None:
            return
        if not nodes:
            del self._nodes[service], self._listed[node.service]
        self._retire(published)
        self._link.tell(write_answer(published.instance, ttl=0))

    async def close(self) -> None:
        """Withdraw all nodes."""
        for number, node in enumerate(self.nodes):
            if number and not number % _BURST:
                await asyncio.sleep(_PAUSE)
            self.withdraw(node)
        self._pending.clear()
        if self._pump_handle is not None:
            self._pump_handle.cancel()
            self._pump_handle = None

    def answer(self, query: Query, source: Address) -> None:
        """Answer the questions of `query` about our nodes: to the asker, one message for each node.

        If the asker uses the group's port, several programs share that port, and the answer has
        to go to everybody.
        """
        shared = source[1] == self._link.port
        for question in dict.fromkeys(query.questions[:_MOST_QUESTIONS]):
            everybody = shared and not question.unicast
            for published, pointer in self._asked(question):
                if pointer and published.instance.name in query.known:
                    continue
                if everybody:
                    self._send(_Pending(published, pointer=pointer))
                else:
                    self._send(_Pending(published, source, pointer, question, query.id))

    def hear(self, answer: Answer) -> None:
        """Announce our nodes again if somebody else said goodbye for them (the rescue of RFC 6762 10.1).

        An earlier process may have had the same id and may stop only now.
        """
        goodbyes = {pointer.target for pointer in answer.pointers if not pointer.ttl}
        goodbyes.update(seen.name for seen in answer.instances if not seen.ttl)
        now = asyncio.get_running_loop().time()
        for nodes in self._nodes.values():
            for name in goodbyes & nodes.keys():
                published = nodes[name]
                if published.rescue is None:
                    pause = max(published.rescued + RESCUE - now, 0)
                    published.rescue = _later(pause, self._rescue, published)

    def compare(self, answer: Answer, source: Address) -> None:
        """Say so, once for each address, if somebody else answers for a name of ours."""
        for seen in answer.instances:
            for nodes in self._nodes.values():
                published = nodes.get(seen.name)
                if published is None or published.node is None or not seen.ttl:
                    continue
                own = published.instance
                if not seen.port or (seen.port == own.port and own.address in seen.addresses):
                    continue
                other = f"{', '.join(seen.addresses) or source[0]} port {seen.port}"
                if other in published.rivals or len(published.rivals) >= _MOST_RIVALS:
                    continue
                published.rivals.add(other)
                log.warning(
                    "another process answers for %s of %s: it is at %s, and this one at %s; others see "
                    "now one and now the other: give each a server_id of its own",
                    published.node.id,
                    published.node.service,
                    other,
                    published.node.address,
                )

    def _rescue(self, published: _OwnName) -> None:
        published.rescue, published.rescued = None, asyncio.get_running_loop().time()
        self._announce(published)

    def _asked(self, question: MdnsQuestion) -> Iterator[tuple[_OwnName, str]]:
        name, kind = question.name, question.kind
        if kind in (PTR, ANY):
            if name == SERVICES:
                yield from ((listed, SERVICES) for listed in self._listed.values())
            yield from ((published, name) for published in self._nodes.get(name, {}).values())
        if kind in (SRV, TXT, ANY):
            yield from ((nodes[name], "") for nodes in self._nodes.values() if name in nodes)

    def _announce(self, published: _OwnName) -> None:
        self._send(_Pending(published))

    def _retire(self, published: _OwnName) -> None:
        published.gone = True
        for timer in (*published.timers, published.rescue):
            if timer is not None:
                timer.cancel()

    def _send(self, pending: _Pending) -> None:
        if len(self._pending) >= _MOST_PENDING:
            log.debug("too many answers at once: one is left out")
            return
        self._pending.append(pending)
        if self._pump_handle is None:
            self._pump_later(0)

    def _pump(self) -> None:
        self._pump_handle = None
        for _ in range(_BURST):
            if not self._pending:
                return
            pending = self._pending.popleft()
            if pending.published.gone:
                continue
            message = write_answer(
                pending.published.instance,
                pointer=pending.pointer,
                question=pending.question,
                id=pending.id,
            )
            self._link.tell(message, pending.to)
        self._pump_later(_PAUSE)

    def _pump_later(self, seconds: float) -> None:
        self._pump_handle = _later(seconds, self._pump)


def _later(seconds: float, work: Callable[..., None], *arguments: Any) -> asyncio.TimerHandle:
    # In an empty context: the caller that registers may have a deadline.
    return contextvars.Context().run(asyncio.get_running_loop().call_later, seconds, work, *arguments)


def host_name() -> str:
    """This machine's name as a DNS name, to which answers give the address."""
    labels = [label.encode()[:63].decode(errors="ignore") for label in socket.gethostname().split(".")]
    # Cut far below the longest name, since it shares its message with the node's name.
    return ".".join(filter(None, labels))[:120].strip(".") + "." if any(labels) else "localhost."


def _instance(node: Node) -> Instance:
    """The record of `node`, without its endpoints if they would make it too long.

    Raises:
        ConfigError: mdns cannot carry the node.
    """
    if problem := service_problem(node.service) or id_problem(node.id, node.service):
        raise _refused(
            node,
            problem,
            "with the id it gets by itself a service's name may have 26 bytes after its last dot; "
            "server_id gives it another",
        )
    try:
        host, port = split_address(node.address)
    except ValueError as exc:
        raise _refused(node, str(exc)) from None
    if not is_ip(host) or "%" in host or not port:
        raise _refused(
            node,
            f"{node.address} is no IP address with a port, and mdns carries nothing else",
            "set server_advertise to the address that others reach it by",
        )
    asked = service_name(node.service)
    problem = ""
    for endpoints in (True, False):
        try:
            packed = text.dump(node, endpoints=endpoints)
        except ValueError as exc:
            raise _refused(node, str(exc)) from None
        instance = Instance(instance_name(node.id, node.service), host_name(), port, host, packed)
        try:
            text.load(packed)  # we write nothing that others would not read
            # The longest possible message includes the question that it answers.
            write_answer(instance, pointer=asked, question=MdnsQuestion(asked))
        except ValueError as exc:
            problem = str(exc)
            continue
        if not endpoints:
            log.info("%s has too many endpoints for mdns: it is registered without them", node.service)
        return instance
    raise _refused(node, f"without its endpoints too, {problem}", "give it less metadata")


def _refused(node: Node, why: str, fix: str = "") -> ConfigError:
    hint = f" ({fix})" if fix else ""
    return ConfigError(f"registry mdns cannot carry {excerpt(node.service)} at {node.address}: {why}{hint}")
