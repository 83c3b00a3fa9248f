"""One service's node sets, read once from the API server for all watchers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.base.latest import Latest
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.reflector import ObjectQuery
from pymicro.kubernetes.api.reflectors import Reflectors
from pymicro.kubernetes.cluster.shares import limited, most_of_one
from pymicro.nodes.node import Node, NodeSet
from pymicro.nodes.table import NodeTable

__all__ = ["ClusterWatch", "Parse"]

log = logging.getLogger("pymicro.kubenodes")

# How long the first set of a watch waits for what this process has just written. That
# comes within some milliseconds, unless the pod is not among those watched.
CATCH_UP = 1.0

Parse = Callable[[Mapping[str, Any]], tuple[Node, ...] | None]


class ClusterWatch:
    """Follows the objects of one service, in every namespace asked for, while somebody watches.

    The first set comes when every namespace has answered. From then on, when a
    namespace fails, watchers hear of it once and its last nodes stay, while the
    other namespaces go on.

    Args:
        queries: Finds out what to ask for.
        parse: Turns an object into its nodes; equal for equal services.
        refine: Turns the nodes of all objects together into the final set.
        explain: Puts an error into words for watchers.
        fair: Whether no object may have many more nodes than the others.
    """

    def __init__(
        self,
        queries: Callable[[], Awaitable[Sequence[ObjectQuery]]],
        parse: Parse,
        refine: Callable[[NodeSet], NodeSet],
        explain: Callable[[Exception], str],
        *,
        fair: bool = False,
    ) -> None:
        self._queries = queries
        self._parse = parse
        self._refine = refine
        self._explain = explain
        self._fair = fair
        self._objects: dict[ObjectQuery, Mapping[str, tuple[Node, ...]]] = {}
        self._most = 0
        self._table = NodeTable()
        self._asked: Sequence[ObjectQuery] = ()
        self._synced: set[ObjectQuery] = set()
        self._failing: set[ObjectQuery] = set()
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
        return len(self._synced) == len(self._asked) > len(self._failing)

    async def run(self, reflectors: Reflectors) -> None:
        """Follow the objects until cancelled."""
        try:
            self._asked = await self._queries()
            async with asyncio.TaskGroup() as group:
                for query in self._asked:
                    group.create_task(self._follow(reflectors, query), name=f"follow {query}")
        except (ConfigError, KubeError) as exc:
            self.end(exc)
        except Exception as exc:
            # This is a bug of ours; the watchers must not wait for ever.
            log.exception("a watch of the Kubernetes API died of a bug")
            self.end(exc)

    async def _follow(self, reflectors: Reflectors, query: ObjectQuery) -> None:
        async with reflectors.use(query, self._parse) as reflector:
            while True:
                try:
                    async with aclosing(reflector.follow()) as changes:
                        async for objects in changes:
                            self._take(query, objects, reflector.state.resource_version)
                    raise RuntimeError(f"the reflector of {query} ended")
                except KubeError as exc:
                    told = query in self._failing and self._works_partly
                    self._failing.add(query)
                    if not told:
                        self._latest.fail(RegistryError(self._explain(exc)), stands=self._works_partly)

    def _take(self, query: ObjectQuery, objects: Mapping[str, tuple[Node, ...]], version: str) -> None:
        self._failing.discard(query)
        self._synced.add(query)
        nodes = self._refine(self._all_nodes(query, objects))
        if len(self._synced) == len(self._asked):
            # Versions are revisions of etcd, the same for all namespaces.
            self._version = max(self._version, int(version) if version.isdigit() else 0)
            self._latest.set(nodes)

    def _all_nodes(self, query: ObjectQuery, objects: Mapping[str, tuple[Node, ...]]) -> NodeSet:
        """The nodes of all objects, those of this query anew."""
        if not self._fair:
            return self._table.replace(query, objects)
        self._objects[query] = objects
        most = most_of_one(self._objects.values())
        if most != self._most:
            self._most = most
            for other, before in self._objects.items():
                self._table.replace(other, limited(before, most))
        return self._table.replace(query, limited(objects, most))

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
