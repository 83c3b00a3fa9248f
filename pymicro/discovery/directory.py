"""The directory: one watch per service for the whole process, and its last answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pymicro.base.backoff import Backoff
from pymicro.base.endless import being_cancelled, endless
from pymicro.base.errors import RegistryError
from pymicro.base.latest import Latest
from pymicro.base.loggers import logger
from pymicro.base.recorder import Recorder
from pymicro.base.sharing import Sharing
from pymicro.base.suggest import did_you_mean
from pymicro.discovery.registry import Registry
from pymicro.nodes.node import EMPTY, NodeSet, differing

__all__ = ["Directory", "ServiceState"]

log = logger("pymicro.discovery")

# A watch that lived this long was healthy: its end is news, and not the next failure of
# a row. (We must still ask a registry less and less often if it answers and then fails
# at once.)
_HEALTHY = 10.0

# The most addresses in a log line; a rollout of a thousand nodes is still one line.
_LISTED = 8


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What the directory knows of a service at present.

    Attributes:
        nodes: The last good set; None if there was none yet.
        age: Seconds since the registry last gave or confirmed it; None if it never did.
        error: The registry's failure since then; None while it works.
        failing: Seconds since the registry began to fail; None while it works.
    """

    nodes: NodeSet | None = None
    age: float | None = None
    error: str | None = None
    failing: float | None = None


def _plain(text: str) -> str:
    """`text` for the log: texts from registries and callers must not break the line."""
    return text if text.isprintable() else repr(text)


def _seconds(age: float) -> str:
    return f"{age:.1f} s" if age < 10 else f"{age:.0f} s"


def _count(nodes: NodeSet) -> str:
    return f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"


def _change(old: NodeSet, new: NodeSet) -> str:
    """` (+10.0.0.1:80 -10.0.0.2:80 ~10.0.0.3:80)`: nodes that came, left, and changed in place."""
    gone, present = differing(old, new)
    before = {node.key: node for node in gone}
    after = {node.key: node for node in present}

    came = [("+", node) for key, node in after.items() if key not in before]
    left = [("-", node) for key, node in before.items() if key not in after]
    changed = [("~", node) for key, node in after.items() if key in before and node != before[key]]
    marked = came + left + changed
    shown = [sign + _plain(node.address) for sign, node in marked[:_LISTED]]
    if len(marked) > _LISTED:
        shown.append(f"and {len(marked) - _LISTED} more")
    return f" ({' '.join(shown)})" if shown else ""


class _Topic:
    """One watched service: its newest set, and how fresh that is."""

    def __init__(self, service: str, clock: Callable[[], float]) -> None:
        self.service = service
        self.label = _plain(service)
        self.latest: Latest[NodeSet] = Latest()
        self._clock = clock
        self._nodes: NodeSet | None = None
        self._confirmed = 0.0
        self._error: str | None = None
        self._failed = 0.0

    def take(self, nodes: NodeSet) -> None:
        """Keep a set from the registry, new or confirmed."""
        if self._error is not None:
            log.info("%s: the registry works again", self.label)
            self._error = None
        self._confirmed = self._clock()
        old, self._nodes = self._nodes, nodes
        if old is None or nodes != old:
            if log.isEnabledFor(logging.INFO):
                log.info("%s: %s%s", self.label, _count(nodes), _change(old or EMPTY, nodes))
            self.latest.set(nodes)

    def fail(self, error: str) -> None:
        """The registry failed: the last set stands, and the log says so once."""
        if self._error is None:
            if self._nodes is None:
                kept = "no nodes are known yet"
            else:
                age = _seconds(self._clock() - self._confirmed)
                kept = f"keeping {_count(self._nodes)} of {age} ago"
            log.warning("%s: %s; %s, trying again", self.label, error, kept)
            self._failed = self._clock()
        self._error = error

    def state(self) -> ServiceState:
        failing = self._clock() - self._failed if self._error is not None else None
        if self._nodes is None:
            return ServiceState(error=self._error, failing=failing)
        return ServiceState(self._nodes, self._clock() - self._confirmed, self._error, failing)


class Directory:
    """The nodes that a registry lists, for all users in this process.

    However many users watch a service, the directory watches it once: from the first
    user on, and for `linger` seconds after the last has gone. So a channel made anew
    finds its nodes at once, and a program that calls names it was handed does not gather
    watches without end. A registry that fails never empties a set: the last set stands,
    with its age, and the directory asks the registry again with growing pauses.

    `async with` it, inside the registry's own `async with`: the directory neither enters
    nor leaves the registry.

    Args:
        registry: The registry, which the caller has entered already.
        linger: Seconds a watch outlives its last watcher.
        backoff: Makes the pauses between tries on one service.
        clock: Seconds of a monotonic clock.
        recorder: Where failures of the registry are counted; None if they are not.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        recorder: Recorder | None = None,
        linger: float = 30.0,
        backoff: Callable[[], Backoff] = lambda: Backoff(0.25, 30.0),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self._recorder = recorder
        self._backoff = backoff
        self._clock = clock
        self._topics: Sharing[str, _Topic] = Sharing("pymicro directory", lambda _: linger)

    async def __aenter__(self) -> Self:
        await self._topics.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop every watch and end every iterator."""
        for topic in self._topics.running.values():
            topic.latest.close()
        await self._topics.__aexit__(kind, exc, traceback)

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        """The newest set of `service`, as soon as one is known, and after each change.

        A slow reader gets the newest set only and holds nobody up. It never
        raises RegistryError (see `state`), and ends when the directory closes.
        """

        def make() -> tuple[_Topic, Coroutine[Any, Any, None]]:
            topic = _Topic(service, self._clock)
            return topic, self._follow(topic)

        async with self._topics.use(service, f"watch of {service}", make) as topic:
            async for nodes in topic.latest.follow():
                yield nodes

    def state(self, service: str) -> ServiceState:
        """What the directory knows of `service` now; nothing if nobody has watched it lately."""
        topic = self._topics.get(service)
        return topic.state() if topic is not None else ServiceState()

    def states(self) -> dict[str, ServiceState]:
        """What the directory knows of each service that is watched."""
        return {service: topic.state() for service, topic in self._topics.running.items()}

    def describe_state(self, service: str) -> str:
        """The clause for messages: `registry local (/tmp/x) listed 0 nodes 2.1 s ago`."""
        state = self.state(service)
        where = self.registry.describe()
        if state.nodes is None or state.age is None:
            if state.error is None:
                return f"{where} has not answered yet"
            return f"{where} has not answered yet and failed with: {state.error}"
        listed = f"{where} listed {_count(state.nodes)} {_seconds(state.age)} ago"
        if state.error is not None:
            return f"{listed} and has failed since with: {state.error}"
        return listed if state.nodes else f"{listed}{did_you_mean(service, self._others(service))}"

    def _others(self, service: str) -> list[str]:
        """Other services that have nodes, as far as nobody must be asked."""
        known = getattr(self.registry, "known_services", None)
        names = {name for name, state in self.states().items() if state.nodes}
        return sorted(names.union(known() if known is not None else ()) - {service})

    def _follow(self, topic: _Topic) -> Coroutine[Any, Any, None]:
        """Copies each set of the registry into `topic`, until cancelled."""
        backoff = self._backoff()

        async def turn() -> float:
            started = self._clock()
            error = await self._read(topic)
            if self._recorder is not None:
                self._recorder.registry_errors["watch"] += 1
            topic.fail(error)
            if self._clock() - started >= _HEALTHY:
                backoff.reset()
            return backoff.next()

        return endless(turn, what=f"the watch of {topic.label}", log=log, pause=backoff.maximum)

    async def _read(self, topic: _Topic) -> str:
        """Read one watch of the registry until it fails or ends; returns what is wrong."""
        try:
            sets: AsyncIterator[NodeSet] = self.registry.watch(topic.service)
            try:
                async for nodes in sets:
                    topic.take(nodes)
            finally:
                if isinstance(sets, AsyncGenerator):
                    await sets.aclose()
        except RegistryError as exc:
            return str(exc)
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            return f"the watch of {self.registry.describe()} was cancelled from inside"
        except Exception as exc:
            # The registry has a bug: its traceback goes to the log, our callers go on.
            log.exception("%s: the watch of %s raised", topic.label, self.registry.describe())
            return f"{type(exc).__name__}: {exc}"
        return f"the watch of {self.registry.describe()} ended"
