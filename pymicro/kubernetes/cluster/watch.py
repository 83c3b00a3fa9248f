"""One service's node sets, read once from the API server for all watchers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.base.latest import Latest
from pymicro.base.loggers import logger
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.reflectors import Reflectors
from pymicro.kubernetes.cluster.changeover import Changeover, WatchChooser
from pymicro.kubernetes.cluster.shares import limited, most_of_one
from pymicro.kubernetes.cluster.wanted import Wanted
from pymicro.nodes.node import Node, NodeSet
from pymicro.nodes.table import NodeTable

__all__ = ["ClusterWatch"]

log = logger("pymicro.kubenodes")

# How long the first set of a watch waits for what this process has just written. That
# comes within some milliseconds, unless the pod is not among those watched.
CATCH_UP = 1.0


class ClusterWatch:
    """Follows the objects of one service, in every namespace asked for, while somebody watches.

    The first set comes when every namespace has answered. From then on, when a
    namespace fails, watchers hear of it once and its last nodes stay, while the
    other namespaces go on.

    Args:
        want: Finds out what to ask for: the service's objects in each namespace.
        join: Says, for as long as it is entered, which watch of the API brings them.
        refine: Turns the nodes of all objects together into the final set.
        explain: Puts an error into words for watchers.
        fair: Whether no object may have many more nodes than the others.
    """

    def __init__(
        self,
        want: Callable[[], Awaitable[Sequence[Wanted]]],
        join: Callable[[Wanted], AbstractAsyncContextManager[WatchChooser]],
        refine: Callable[[NodeSet], NodeSet],
        explain: Callable[[Exception], str],
        *,
        fair: bool = False,
    ) -> None:
        self._want = want
        self._join = join
        self._refine = refine
        self._explain = explain
        self._fair = fair
        self._objects: dict[Wanted, Mapping[str, tuple[Node, ...]]] = {}
        self._most = 0
        self._table = NodeTable()
        self._wanted: Sequence[Wanted] = ()
        self._synced: set[Wanted] = set()
        self._failing: set[Wanted] = set()
        # How far the newest set is in the history: the highest resourceVersion.
        self._version = 0
        self._latest: Latest[NodeSet] = Latest()

    @property
    def failing(self) -> bool:
        """Whether some namespace fails at present."""
        return bool(self._failing)

    @property
    def _works_partly(self) -> bool:
        """Whether there is a set, and at least one namespace still updates it."""
        return len(self._synced) == len(self._wanted) > len(self._failing)

    async def run(self, reflectors: Reflectors) -> None:
        """Follow the objects until cancelled."""
        try:
            self._wanted = await self._want()
            async with asyncio.TaskGroup() as group:
                for wanted in self._wanted:
                    group.create_task(self._follow(reflectors, wanted), name=f"follow {wanted.query}")
        except (ConfigError, KubeError) as exc:
            self.end(exc)
        except Exception as exc:
            # This is a bug of ours; the watchers must not wait for ever.
            log.exception("a watch of the Kubernetes API died of a bug")
            self.end(exc)

    async def _follow(self, reflectors: Reflectors, wanted: Wanted) -> None:
        def take(objects: Mapping[str, tuple[Node, ...]], version: str) -> None:
            self._take(wanted, objects, version)

        def fail(error: KubeError) -> None:
            told = wanted in self._failing and self._works_partly
            self._failing.add(wanted)
            if not told:
                self._latest.fail(RegistryError(self._explain(error)), stands=self._works_partly)

        async with self._join(wanted) as chooser:
            await Changeover(chooser, reflectors, take, fail).run()

    def _take(self, wanted: Wanted, objects: Mapping[str, tuple[Node, ...]], version: str) -> None:
        self._failing.discard(wanted)
        self._synced.add(wanted)
        nodes = self._refine(self._all_nodes(wanted, objects))
        if len(self._synced) == len(self._wanted):
            # Versions are revisions of etcd, the same for all namespaces.
            self._version = max(self._version, int(version) if version.isdigit() else 0)
            self._latest.set(nodes)

    def _all_nodes(self, wanted: Wanted, objects: Mapping[str, tuple[Node, ...]]) -> NodeSet:
        """The nodes of all objects, those of this one anew."""
        if not self._fair:
            return self._table.replace(wanted, objects)
        self._objects[wanted] = objects
        most = most_of_one(self._objects.values())
        if most != self._most:
            self._most = most
            for other, before in self._objects.items():
                self._table.replace(other, limited(before, most))
        return self._table.replace(wanted, limited(objects, most))

    def end(self, error: Exception) -> None:
        """Tell the watchers that nothing more will come."""
        self._latest.close(RegistryError(self._explain(error)))

    async def follow(self, after: int = 0) -> AsyncGenerator[NodeSet, None]:
        """The set: now, after each change, and again when it was confirmed.

        If nothing works when a watcher comes, it waits until something does or until the
        next failure: an old set must not look like a fresh one.

        Args:
            after: A resourceVersion that this process wrote. The first set includes it, as a
                rule (we wait for it no longer than `CATCH_UP`).

        Raises:
            RegistryError: The API server could not be asked.
        """
        if after > self._version and self._version:
            await self._catch_up(after)
        async for nodes in self._latest.follow():
            yield nodes

    async def _catch_up(self, version: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP), aclosing(self._latest.follow()) as sets:
                async for _ in sets:
                    if self._version >= version:
                        return
