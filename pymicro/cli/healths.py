"""What `pymicro health` does: asks every node, once or as long as the user watches."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pymicro.base.durations import format_duration
from pymicro.base.errors import RegistryError
from pymicro.base.tasks import Tasks
from pymicro.calling.peers.health import NodeHealth, check_health, follow_health
from pymicro.cli.clients import at_address, first_nodes, looking_again, make_client, nobody
from pymicro.cli.doctor_nodes import resolve
from pymicro.cli.listing import print_array, print_table
from pymicro.cli.report import EXIT_FAILED, note, say
from pymicro.cli.views import Form, open_view
from pymicro.client import Client
from pymicro.nodes.node import Node
from pymicro.rpc.status import DeadlineExceeded, NotFound, RpcError, Unavailable, Unimplemented

__all__ = ["HealthQuestion", "show_health", "wait_for_nodes", "watch_health"]

# How many nodes are asked at the same time.
_AT_ONCE = 100
# Seconds until a source that cannot be asked is asked again.
_RETRY = 1.0
# How many nodes a message names.
_NAMED = 5
# Seconds within which answers are gathered and shown together.
_GATHER = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthQuestion:
    """What to ask, and which nodes.

    Attributes:
        service: The service whose nodes are asked.
        name: Full name of a proto service; empty for the server as a whole.
        timeout: Seconds a node has for its answer.
        address: The only node to ask; None to look them up.
    """

    service: str
    name: str
    timeout: float
    address: str | None


@dataclass(frozen=True, slots=True)
class _State:
    """What is known of one node.

    Attributes:
        health: Its answer; None if it gave none.
        error: Why it gave none.
        mute: Whether it answers, but has no health to tell.
    """

    node: Node
    health: NodeHealth | None
    error: str = ""
    mute: bool = False

    @property
    def serving(self) -> bool:
        return self.health is not None and self.health.serving

    @property
    def text(self) -> str:
        return self.error if self.health is None else self.health.status

    def row(self, wide: bool) -> list[str]:
        time = f"{self.health.seconds * 1000:.1f} ms" if self.health is not None else ""
        return [*self._node(wide), time, self.text]

    def change(self, wide: bool) -> list[str]:
        """The row without the time, which differs in every answer."""
        return [*self._node(wide), self.text]

    def _node(self, wide: bool) -> list[str]:
        node = self.node
        return [node.id, node.address, node.version] if wide else [node.address]

    def to_json(self) -> dict[str, Any]:
        health = self.health
        return {
            "id": self.node.id,
            "address": self.node.address,
            "version": self.node.version,
            "status": health.status if health is not None else None,
            "milliseconds": round(health.seconds * 1000, 3) if health is not None else None,
            "error": self.error or None,
        }

    def colour(self) -> str:
        return "" if self.serving else "red"


def _header(wide: bool) -> list[str]:
    return ["ID", "ADDRESS", "VERSION", "TIME", "HEALTH"] if wide else ["ADDRESS", "TIME", "HEALTH"]


async def show_health(question: HealthQuestion, argv: Sequence[str], output: str) -> int:
    """Print the health of every node; return the exit code."""
    async with make_client(at_address(argv, question.service, question.address), waits=True) as client:
        listed = await first_nodes(client, question.service)
        if not listed:
            if output == "json":
                print_array([])
            note(await nobody(client, question.service))
            return EXIT_FAILED
        nodes, states = await _dialled(listed)
        places = asyncio.Semaphore(_AT_ONCE)

        async def ask(node: Node) -> _State:
            async with places:
                try:
                    found = await check_health(
                        node,
                        client.config,
                        client.core.tls,
                        service=question.name,
                        timeout=question.timeout,
                    )
                    return _State(node, found)
                except RpcError as exc:
                    return _State(node, None, _reason(exc, question.timeout))

        states += await asyncio.gather(*map(ask, nodes))
    if output == "json":
        print_array([state.to_json() for state in states])
    else:
        wide = output == "wide"
        rows = [state.row(wide) for state in states]
        print_table(_header(wide), rows, colours=[state.colour() for state in states])
    return 0 if all(state.serving for state in states) else EXIT_FAILED


async def _dialled(nodes: Iterable[Node]) -> tuple[list[Node], list[_State]]:
    """The nodes to ask, with each address of a name as one; and the nodes without any address."""
    found: list[Node] = []
    lost: list[_State] = []
    for node in nodes:
        if node.kind == "address":
            found.append(node)
            continue
        findings, addresses = await resolve(node)
        found += addresses
        if not addresses:
            lost.append(_State(node, None, findings[0].text))
    return found, lost


# Patterns that shorten grpc-core's account of a failed connection: it names what it tried and
# the address again before it says what happened.
_ACCOUNTS = (
    (re.compile(r"before receiving SETTINGS"), "takes connections and does not answer"),
    (re.compile(r"connect\(\) timed out|[Tt]imeout occurred"), "no connection could be made in time"),
    (re.compile(r"http1\.x server"), "something else listens there (HTTP/1)"),
    (re.compile(r"address lookup failed for \S+: ([^\]]+)"), None),
    # Older versions of grpcio name the system call before the reason, and its number after it.
    (
        re.compile(
            r"last error: \w+: \S+ (?:Failed to connect to remote host: )?(?:connect: )?(.*?)(?: \(\d+\))?\Z",
            re.DOTALL,
        ),
        None,
    ),
)


def _reason(exc: RpcError, timeout: float) -> str:
    """Why there is no health, in a few words."""
    match exc:
        case DeadlineExceeded():
            return f"no answer in {format_duration(timeout)}"
        case Unavailable():
            return f"unreachable: {_happened(exc.details() or '')}"
        case Unimplemented():
            return "answers, and offers no health (grpc.health.v1)"
        case NotFound():
            return "SERVICE_UNKNOWN"
        case _:
            return f"{exc.code().name}: {exc.details()}"


def _happened(details: str) -> str:
    for pattern, words in _ACCOUNTS:
        if found := pattern.search(details):
            return words or found[1]
    return details


async def watch_health(question: HealthQuestion, argv: Sequence[str], output: str) -> int:
    """Show the health of every node until interrupted."""
    wide = output == "wide"
    form: Form[_State] = Form(
        title=f"health of {question.service}",
        header=_header(wide),
        row=lambda state: state.row(wide),
        change=lambda state: state.change(wide),
        to_json=lambda state: state.to_json(),
        colour=lambda state: state.colour(),
    )
    async with (
        make_client(at_address(argv, question.service, question.address)) as client,
        Tasks("health") as tasks,
    ):
        with open_view(output, form) as view:
            watched = _Watched(client, question, tasks)
            tasks.start(watched.follow(), "nodes")
            while True:
                await watched.changed.wait()
                await asyncio.sleep(_GATHER)
                watched.changed.clear()
                view.show(watched.states(), watched.remark)


async def wait_for_nodes(question: HealthQuestion, argv: Sequence[str], count: int, limit: float) -> int:
    """Wait until `count` nodes take calls, `limit` seconds at most (0 for no limit); return the exit code."""
    async with (
        make_client(at_address(argv, question.service, question.address)) as client,
        Tasks("wait") as tasks,
    ):
        watched = _Watched(client, question, tasks)
        tasks.start(watched.follow(), "nodes")
        try:
            with looking_again(client, question.service):
                async with asyncio.timeout(limit or None):
                    while watched.ready < count:
                        await watched.changed.wait()
                        watched.changed.clear()
        except TimeoutError:
            note(await _missing(client, watched, count, limit))
            return EXIT_FAILED
    say(f"{question.service}: {watched.ready} node{'s' * (watched.ready != 1)}")
    return 0


async def _missing(client: Client, watched: _Watched, count: int, limit: float) -> str:
    """Says what there is instead of `count` nodes."""
    states = watched.states().values()
    service = watched.service
    if not states:
        return f"after {format_duration(limit)}: {watched.remark or await nobody(client, service)}"
    text = f"after {format_duration(limit)} {watched.ready} of {count} nodes of {service} take calls"
    unwell = [f"{state.node.address}: {state.text}" for state in states if not (state.serving or state.mute)]
    more = f"; and {len(unwell) - _NAMED} more" if len(unwell) > _NAMED else ""
    return "; ".join([text, *unwell[:_NAMED]]) + more


class _Watched:
    """The health of the present nodes; a task for each follows it.

    Attributes:
        service: Whose nodes they are.
        changed: Set when there is something new to show.
        remark: A remark about the nodes as a whole.
    """

    def __init__(self, client: Client, question: HealthQuestion, tasks: Tasks) -> None:
        self.service = question.service
        self.changed = asyncio.Event()
        self.remark = ""
        self._client = client
        self._question = question
        self._tasks = tasks
        self._followed: dict[str, asyncio.Task[Any]] = {}
        self._states: dict[str, _State] = {}

    def states(self) -> dict[str, _State]:
        """The state of every node that has answered, in the order of their keys."""
        return dict(sorted(self._states.items()))

    @property
    def ready(self) -> int:
        """How many nodes take calls: SERVING, or reached and without a health to tell."""
        return sum(state.serving or state.mute for state in self._states.values())

    async def follow(self) -> None:
        """Follow the set of nodes."""
        service = self.service
        while True:
            try:
                async with aclosing(self._client.watch_nodes(service)) as sets:  # type: ignore[type-var]
                    async for found in sets:
                        nodes, lost = await _dialled(found)
                        before = self._states
                        self._take(nodes, lost)
                        self.remark = "" if found else await nobody(self._client, service)
                        # A new node is shown once it has answered.
                        if self.remark or self._states != before:
                            self.changed.set()
            except RegistryError as exc:
                self.remark = f"{exc}; asking again"
                self.changed.set()
            await asyncio.sleep(_RETRY)

    def _take(self, nodes: Sequence[Node], lost: Sequence[_State]) -> None:
        keys = {node.key for node in nodes}
        for key in set(self._followed) - keys:
            self._followed.pop(key).cancel()
        self._states = {key: state for key, state in self._states.items() if key in keys}
        self._states.update((state.node.key, state) for state in lost)
        for node in nodes:
            if node.key not in self._followed:
                self._followed[node.key] = self._tasks.start(self._follow(node), node.address)

    async def _follow(self, node: Node) -> None:
        question = self._question

        def tell(found: NodeHealth | RpcError) -> None:
            if node.key not in self._followed:
                return  # the node has left, but its tasks have not ended yet
            if isinstance(found, NodeHealth):
                self._states[node.key] = _State(node, found)
            else:
                mute = isinstance(found, Unimplemented)
                self._states[node.key] = _State(node, None, _reason(found, question.timeout), mute)
            self.changed.set()

        await follow_health(
            node,
            self._client.config,
            tell,
            self._client.core.tls,
            service=question.name,
            timeout=question.timeout,
        )
