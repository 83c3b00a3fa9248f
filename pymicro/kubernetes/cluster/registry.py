"""What the registries of a cluster have in common: the way to the API server, and watches."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.base.findings import Finding
from pymicro.base.printable import listed
from pymicro.base.sharing import Sharing
from pymicro.base.turns import Turns
from pymicro.base.turnstile import Turnstile
from pymicro.base.watches import Watches
from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import Cluster, find_cluster
from pymicro.kubernetes.api.errors import KubeError
from pymicro.kubernetes.api.fields import mapping_at
from pymicro.kubernetes.api.pages import Page
from pymicro.kubernetes.api.query import ObjectQuery
from pymicro.kubernetes.api.reflector import ReflectorTiming
from pymicro.kubernetes.api.reflectors import Reflectors
from pymicro.kubernetes.api.resource import Resource, check_namespace
from pymicro.kubernetes.cluster.changeover import WatchChooser
from pymicro.kubernetes.cluster.checks import check_watch, place
from pymicro.kubernetes.cluster.neighbours import Common, Neighbours, SharingRules
from pymicro.kubernetes.cluster.terminating import last_resort
from pymicro.kubernetes.cluster.wanted import Wanted
from pymicro.kubernetes.cluster.watch import ClusterWatch
from pymicro.nodes.node import NodeSet

if TYPE_CHECKING:
    from pymicro.settings.config import Config

__all__ = ["ClusterRegistry", "cluster_wide"]

T = TypeVar("T")

# Objects of a page; the loop turns after each object that is parsed.
_PAGE = 250
# If a list expires between two pages, we begin it anew; this is the most lists in all.
_LISTS = 3

# Seconds that a failing watch outlives its last watcher: the directory comes back within
# 30 s of a failure, and must find the watch still there.
LINGER = 60.0


def cluster_wide(namespaces: Sequence[str]) -> bool:
    """Whether the setting `registry_namespace` means all namespaces."""
    return "*" in namespaces


class ClusterRegistry(Turnstile):
    """A registry that reads from the Kubernetes API; its two kinds say which objects.

    Args:
        config: `registry_address` names the cluster (`pymicro.kubernetes.api.credentials`),
            `registry_namespace` the namespaces to look in.
        environ: The environment of the pod.
        timing: For the reflectors; tests pass their own.
        sharing: When services share a watch; tests pass their own.

    Attributes:
        watches: How its watches fare.

    Raises:
        ConfigError: `registry_namespace` has what can be no namespace.
    """

    name = ""
    drain_delay = 5.0
    # Whether each object was written by somebody who is to get one share of the calls.
    _one_writer = False

    def __init__(
        self,
        config: Config,
        *,
        environ: Mapping[str, str] | None = None,
        timing: ReflectorTiming | None = None,
        sharing: SharingRules | None = None,
    ) -> None:
        super().__init__()
        for namespace in config.registry_namespace:
            if namespace != "*":
                check_namespace(namespace, "registry_namespace")
        self._config = config
        self._environ = os.environ if environ is None else environ
        self._timing = timing or ReflectorTiming()
        self._rules = sharing or SharingRules()
        self.watches = Watches()
        self._stack = AsyncExitStack()
        self._open: tuple[KubeClient, Reflectors] | None = None
        self._cluster: Cluster | None = None
        self._neighbours: Sharing[str | None, Neighbours] = Sharing(f"pymicro registry {self.name}")
        self._watches: Sharing[str, ClusterWatch] = Sharing(
            f"pymicro registry {self.name}", lambda watch: LINGER if watch.failing else 0.0
        )

    # Differences between the two kinds

    def _name_problem(self, service: str) -> str:
        """Why no service can have this name here; empty if one can."""
        raise NotImplementedError

    def _want(self, service: str, namespaces: Sequence[str | None]) -> Sequence[Wanted]:
        """The objects of the service in these namespaces (None: all)."""
        raise NotImplementedError

    def _unite(self, wanted: Sequence[Wanted]) -> Common:
        """The one watch for these services, which are all wanted in the same namespace (or in all)."""
        raise NotImplementedError

    def _refine(self, nodes: NodeSet) -> NodeSet:
        """Turn the nodes of all objects together into the final set."""
        return last_resort(nodes)

    def _written(self, service: str) -> int:
        """The newest resourceVersion that this process wrote for `service`; 0 if it wrote none."""
        return 0

    async def _withdraw(self) -> None:
        """Take back what is still published, in bounded time; called when the last user leaves."""

    # Entering and leaving

    async def _enter(self) -> None:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(KubeClient(self._find))
            reflectors = await stack.enter_async_context(
                Reflectors(client, timing=self._timing, watches=self.watches)
            )
            await stack.enter_async_context(self._neighbours)
            await stack.enter_async_context(self._watches)
            self._open = client, reflectors
            self._stack = stack.pop_all()

    async def _leave(self) -> None:
        try:
            await self._withdraw()
        finally:
            self._open = None
            for watch in self._watches.running.values():
                watch.end(RegistryError(f"{self.describe()} is closed"))
            await self._stack.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.describe()!r} watches={sorted(self._watches.running)}>"

    def describe(self) -> str:
        """`registry kubernetes (namespace shop of https://10.96.0.1:443)`, with the parts known so far."""
        own = self._cluster.namespace if self._cluster is not None else ""
        given = self._config.registry_namespace
        if cluster_wide(given):
            where = "all namespaces"
        elif given:
            where = f"namespace{'s' * (len(given) > 1)} {listed(given)}"
        else:
            where = f"namespace {own}" if own else "the own namespace"
        if self._cluster is not None:
            server = self._cluster.server
        else:
            server = ", ".join(self._config.registry_address) or "the cluster"
        return f"registry {self.name} ({where} of {server})"

    # Requests

    async def _find(self) -> Cluster:
        self._cluster = await find_cluster(self._config.registry_address, self._environ)
        return self._cluster

    def _opened(self) -> tuple[KubeClient, Reflectors]:
        if self._open is None:
            raise RuntimeError(f"{self.describe()} is used outside its `async with`")
        return self._open

    @property
    def _client(self) -> KubeClient:
        return self._opened()[0]

    async def _namespaces(self) -> tuple[str | None, ...]:
        """The namespaces to look in: names, or None alone for all.

        Raises:
            ConfigError: There is no cluster to be found.
        """
        given = self._config.registry_namespace
        if cluster_wide(given):
            return (None,)
        return tuple(dict.fromkeys(given)) or ((await self._client.find()).namespace,)

    async def _list(
        self,
        resource: Resource,
        namespace: str | None,
        read: Callable[[Mapping[str, Any]], T],
        *,
        labels: str = "",
        fields: str = "",
    ) -> list[T]:
        """The results of `read` for all objects; it lists in pages and lets the loop turn.

        Raises:
            KubeError: The server refused or did not answer.
            ConfigError: There is no cluster to be found.
        """
        for _ in range(_LISTS - 1):
            try:
                return [read(one) async for one in self._pages(resource, namespace, labels, fields)]
            except KubeError as exc:
                if not exc.expired:
                    raise
        return [read(one) async for one in self._pages(resource, namespace, labels, fields)]

    async def _pages(
        self, resource: Resource, namespace: str | None, labels: str, fields: str
    ) -> AsyncIterator[Mapping[str, Any]]:
        params = {"limit": str(_PAGE)}
        params |= {key: text for key, text in (("labelSelector", labels), ("fieldSelector", fields)) if text}
        path = resource.path(namespace)
        turns = Turns()
        while True:
            answer = await self._client.read("GET", path, params=params)
            try:
                page = Page(answer)
                for found in page.objects():
                    if isinstance(found, dict):
                        yield found
                    await turns.give()
            except (ValueError, RecursionError) as exc:
                raise KubeError(f"list {resource.plural}: the answer is no list: {exc}") from exc
            if not page.proceed:
                return
            params["continue"] = page.proceed

    # Errors

    def _hint(self, service: str = "") -> str:
        command = shlex.join(["pymicro", "doctor", *([service] if service else [])])
        return f"`{command}` says more"

    def _explain(self, error: Exception | str, service: str = "") -> str:
        """An error in the words for users."""
        text = str(error)
        # A rule to add has lines of its own.
        return f"registry {self.name}: {text}{chr(10) if chr(10) in text else ': '}{self._hint(service)}"

    # Watching

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        """All nodes of `service`: now, after each change, and again when they were confirmed.

        Raises:
            RegistryError: No service can have this name here, or the API server could
                not be asked.
        """
        _, reflectors = self._opened()
        if problem := self._name_problem(service):
            raise RegistryError(self._explain(problem, service))

        async def want() -> Sequence[Wanted]:
            return self._want(service, await self._namespaces())

        def make() -> tuple[ClusterWatch, Coroutine[Any, Any, None]]:
            watch = ClusterWatch(
                want,
                self._join,
                self._refine,
                lambda error: self._explain(error, service),
                fair=self._one_writer,
            )
            return watch, watch.run(reflectors)

        async with self._watches.use(service, f"watch of {service}", make) as watch:
            async for nodes in watch.follow(self._written(service)):
                yield nodes

    @asynccontextmanager
    async def _join(self, wanted: Wanted) -> AsyncGenerator[WatchChooser, None]:
        """Who says which watch brings these objects: all services of a namespace have one."""
        namespace = wanted.query.namespace

        def make() -> tuple[Neighbours, Coroutine[Any, Any, None]]:
            where = f"registry {self.name}, {place(namespace)}"
            neighbours = Neighbours(where, self._unite, self._count, rules=self._rules)
            return neighbours, neighbours.run()

        async with self._neighbours.use(namespace, f"neighbours {place(namespace)}", make) as neighbours:
            with neighbours.join(wanted) as chooser:
                yield chooser

    async def _count(self, query: ObjectQuery) -> int:
        """How many objects there are where `query` looks, whatever it selects.

        Raises:
            KubeError: The server refused or did not answer.
            ConfigError: There is no cluster to be found.
        """
        # With a selector the server would not say how many remain.
        found = await self._client.request("GET", query.path, params={"limit": "1"})
        if not isinstance(found, dict):
            raise KubeError(f"list {query.resource.plural}: the answer is no list", kind="malformed")
        items, rest = found.get("items"), mapping_at(found, "metadata").get("remainingItemCount")
        return (len(items) if isinstance(items, list) else 0) + (rest if isinstance(rest, int) else 0)

    async def services(self) -> list[str]:
        """Names of the services with at least one node, sorted.

        Raises:
            RegistryError: The API server could not be asked.
        """
        try:
            names: set[str] = set()
            for namespace in await self._namespaces():
                names |= await self._services_in(namespace)
        except (KubeError, ConfigError) as exc:
            raise RegistryError(self._explain(exc)) from exc
        return sorted(names)

    async def _services_in(self, namespace: str | None) -> set[str]:
        raise NotImplementedError

    # Diagnosis

    async def endure(self, service: str, seconds: float) -> AsyncIterator[Finding]:
        """Hold the watches of `service` for some time, side by side: whether each of them stands.

        Without a service it holds one in each namespace.
        """
        namespaces = await self._namespaces()
        queries = [wanted.query for wanted in self._want(service or "none", namespaces)]
        if not service:
            queries = [ObjectQuery(query.resource, query.namespace) for query in queries]
        checks = [asyncio.ensure_future(check_watch(self._client, query, seconds)) for query in queries]
        try:
            for check in checks:
                yield await check
        finally:
            for check in checks:
                check.cancel()
            await asyncio.gather(*checks, return_exceptions=True)
