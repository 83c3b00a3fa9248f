"""Registry `local`, the default: nodes of one user on one machine, with nothing to set up.

`folder` has the folder's rules, `scan` reads it; this module is the registry over them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections import defaultdict
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING, Self
from weakref import WeakValueDictionary

from pymicro.base.endless import endless
from pymicro.base.errors import ConfigError, RegistryError
from pymicro.base.findings import Finding
from pymicro.base.latest import Latest
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt, listed
from pymicro.base.suggest import did_you_mean
from pymicro.base.watches import Watches, WatchRecord
from pymicro.discovery.registries.local.folder import Folder, NodeFile
from pymicro.discovery.registries.local.scan import MENDED, Scanner
from pymicro.nodes.node import EMPTY, Node, NodeSet

if TYPE_CHECKING:
    from pymicro.settings.config import Config

__all__ = ["LocalRegistry"]

log = logger("pymicro.registry.local")

# Other processes see a killed one for this long at most; a reading takes some 15 us a node.
POLL_INTERVAL = 0.25

# How often we yield an unchanged set again, so that its age stays honest.
CONFIRM_INTERVAL = 1.0


class _FolderWatch:
    """One watch: the service it asks for and the answers it got."""

    def __init__(self, service: str) -> None:
        self.latest: Latest[NodeSet] = Latest()
        self.service = service
        self._last: NodeSet | None = None
        self._told = 0.0

    def offer(self, nodes: NodeSet) -> None:
        now = time.monotonic()
        if nodes != self._last or now - self._told >= CONFIRM_INTERVAL:
            self._last, self._told = nodes, now
            self.latest.set(nodes)


class _Poller:
    """Reads one folder for all watches of this process, while there are any.

    Attributes:
        watches: How the reading fares.
    """

    def __init__(self, folder: Folder) -> None:
        self.watches = Watches()
        self._what = f"folder {folder}"
        self._record: WatchRecord | None = None
        self._scanner = Scanner(folder)
        self._subscriptions: list[_FolderWatch] = []
        self._task: asyncio.Task[None] | None = None
        self._joined = asyncio.Event()
        self._nodes: list[Node] = []
        self._sets: dict[str, NodeSet] = {}

    async def sets(self) -> dict[str, NodeSet]:
        """Every service's nodes as they are now."""
        nodes = await self._scanner.scan()
        if nodes != self._nodes:
            by_service: defaultdict[str, list[Node]] = defaultdict(list)
            for node in nodes:
                by_service[node.service].append(node)
            self._nodes = nodes
            self._sets = {service: NodeSet.of(found) for service, found in by_service.items()}
        return self._sets

    def known(self) -> set[str]:
        """The services that the last scan found."""
        return self._scanner.known()

    def subscribe(self, service: str) -> _FolderWatch:
        """Begin a watch: its first set is read after this moment."""
        subscription = _FolderWatch(service)
        self._subscriptions.append(subscription)
        self._joined.set()
        if self._task is None:
            self._record = self.watches.begin(self._what)
            # In an empty context: the first watcher may be a handler, whose deadline is
            # not ours.
            reading = endless(self._turn, what="reading the folder", log=log, pause=POLL_INTERVAL)
            self._task = contextvars.Context().run(
                asyncio.create_task, reading, name="pymicro registry local"
            )
        return subscription

    async def unsubscribe(self, subscription: _FolderWatch) -> None:
        """End a watch; the last one ends the reading."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
        task = self._task
        if task is not None and not self._subscriptions:
            self._task = None
            record, self._record = self._record, None
            if record is not None:
                record.end()
            task.cancel()
            await asyncio.wait([task])

    async def _turn(self) -> float:
        self._joined.clear()
        # A watch that joins while the folder is being read waits for the next reading.
        asking = list(self._subscriptions)
        try:
            sets = await self.sets()
        except RegistryError as exc:
            self._fail(asking, str(exc))
        except Exception as exc:
            # This is a bug of ours; the watches must not wait for ever.
            log.exception("reading the folder failed")
            self._fail(asking, f"registry local: {type(exc).__name__}: {exc}")
        else:
            self._read()
            for subscription in asking:
                subscription.offer(sets.get(subscription.service, EMPTY))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_INTERVAL):
                await self._joined.wait()
        return 0.0

    def _read(self) -> None:
        record = self._record
        if record is None:
            return
        if record.connected:
            record.heard()
        else:
            record.listed()
            record.opened()

    def _fail(self, asking: list[_FolderWatch], error: str) -> None:
        record = self._record
        if record is not None and record.connected:
            record.cut("unreadable", error)
        elif record is not None:
            record.failed(error)
        for subscription in asking:
            subscription.latest.close(RegistryError(error))


# One for each loop and folder, for as long as a registry uses it.
_pollers: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, str], _Poller] = WeakValueDictionary()


class LocalRegistry:
    """Nodes of one user on one machine: a folder with a locked file for each.

    When a process dies, in whatever way, the kernel drops its locks, and all others see it
    gone at their next reading of the folder (every 0.25 s). This needs flock, so a local
    disk, on Linux or macOS.

    Args:
        config: Its `registry_address` is the folder; if empty, `pymicro-<uid>` in the
            temporary folder. Where that belongs to somebody else, or there is no temporary
            folder, it is `pymicro` in XDG_RUNTIME_DIR.

    Raises:
        ConfigError: `registry_address` has several entries, or it is empty and there is no
            folder to write in.
    """

    name = "local"
    drain_delay = 0.0
    # Its watchers read the folder every quarter of a second.
    notice = 0.3

    def __init__(self, config: Config) -> None:
        address = config.registry_address
        if len(address) > 1:
            listing = ", ".join(address)
            raise ConfigError(
                f"registry_address of registry local is one folder, not {len(address)}: {listing}"
            )
        self._folder = Folder(address[0] if address else None)
        self._poller: _Poller | None = None
        self._users = 0
        self._records: dict[tuple[str, str], NodeFile] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._watches: list[_FolderWatch] = []

    async def __aenter__(self) -> Self:
        self._folder.prepare()
        self._users += 1
        if self._poller is None:
            key = asyncio.get_running_loop(), str(self._folder)
            self._poller = _pollers.get(key)
            if self._poller is None:
                self._poller = _pollers[key] = _Poller(self._folder)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._users -= 1
        if self._users:
            return
        poller, self._poller = self._poller, None
        records, self._records = self._records, {}
        await self._end_keeper()
        for record in records.values():
            try:
                record.remove()
            except OSError as error:
                log.warning("%s: %s", self.describe(), error)
        for subscription in list(self._watches):
            subscription.latest.close(RegistryError(f"{self.describe()} is closed"))
            if poller is not None:
                await poller.unsubscribe(subscription)

    @property
    def watches(self) -> Watches:
        """How the reading of its folder fares; all registries of this loop share that."""
        return self._poller.watches if self._poller is not None else Watches()

    def __repr__(self) -> str:
        return f"<LocalRegistry {str(self._folder)!r} registered={len(self._records)}>"

    def describe(self) -> str:
        """`registry local (/tmp/pymicro-1000)`."""
        return f"registry local ({self._folder})"

    def advertised_host(self) -> str:
        """127.0.0.1: all its readers are on this machine."""
        return "127.0.0.1"

    async def register(self, node: Node) -> None:
        """Make `node` known, or check that its file is still there and make it again if not.

        That is checked every second in between too.

        Raises:
            RegistryError: The folder cannot be written or locked.
        """
        self._opened()
        self._ensure(node)
        if self._keeper is None:
            keeping = endless(self._keep, what="looking after our files", log=log, pause=MENDED, delay=MENDED)
            self._keeper = contextvars.Context().run(
                asyncio.create_task, keeping, name="pymicro registry local: files"
            )

    async def _keep(self) -> float:
        for record in list(self._records.values()):
            try:
                if not record.intact():
                    self._ensure(record.node)
            except (OSError, RegistryError) as exc:
                log.debug("%s cannot be registered again now: %s", record.node.id, exc)  # `register` tells
        return MENDED

    async def _end_keeper(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])

    def _ensure(self, node: Node) -> None:
        key = node.service, node.id
        try:
            self._folder.prepare()
            held = self._records.get(key)
            if held is not None and held.node == node and held.intact():
                held.renew()
                return
            if held is not None:
                log.info("registering %s at %s again in %s", node.service, node.address, self._folder)
            # The new file comes first: so the node is never missing, and two files with one
            # node are one node.
            self._records[key] = NodeFile.create(self._folder, node)
            if held is not None:
                held.remove()
        except OSError as exc:
            raise RegistryError(
                f"{self.describe()}: cannot register {node.service} at {node.address}: {exc.strerror}"
            ) from exc
        except ValueError as exc:
            raise RegistryError(f"{self.describe()}: cannot register {excerpt(node.service)}: {exc}") from exc

    async def deregister(self, node: Node) -> None:
        """Take `node` back, if it was registered through this instance.

        Raises:
            RegistryError: The file cannot be removed; the node counts as gone all the same.
        """
        record = self._records.pop((node.service, node.id), None)
        if not self._records:
            await self._end_keeper()
        if record is not None:
            try:
                record.remove()
            except OSError as exc:
                raise RegistryError(
                    f"{self.describe()}: cannot remove the file of {node.service}: {exc.strerror}"
                ) from exc

    async def watch(self, service: str) -> AsyncGenerator[NodeSet, None]:
        """All nodes of `service`, now and after each change; confirmed about once a second.

        Raises:
            RegistryError: The folder cannot be read, or this registry was left.
        """
        poller = self._opened()
        subscription = poller.subscribe(service)
        self._watches.append(subscription)
        try:
            async for nodes in subscription.latest.follow():
                yield nodes
        finally:
            self._watches.remove(subscription)
            await poller.unsubscribe(subscription)

    async def services(self) -> list[str]:
        """Names of the services with at least one node, sorted.

        Raises:
            RegistryError: The folder cannot be read.
        """
        return sorted(await self._opened().sets())

    def known_services(self) -> list[str]:
        """The same as of the last look into the folder, at once."""
        return sorted(self._poller.known()) if self._poller is not None else []

    async def diagnose(self, service: str) -> AsyncGenerator[Finding, None]:
        """Whether the folder can be read, and the nodes in it."""
        try:
            sets = await self._opened().sets()
        except RegistryError as exc:
            yield Finding("folder", "problem", str(exc))
            return
        yield Finding("folder", "ok", f"{self._folder}: {listed(sorted(sets)) or 'nobody'}")
        if not service:
            return
        if found := sets.get(service):
            yield Finding("nodes", "ok", f"{len(found)} node{'s' * (len(found) != 1)} of {service}")
            return
        yield Finding(
            "nodes",
            "problem",
            f"no process that is running has registered {service} there{did_you_mean(service, sorted(sets))}",
            "start it on this machine, as this user and with the same registry_address "
            "(containers have folders of their own)",
        )

    def _opened(self) -> _Poller:
        if self._poller is None:
            raise RuntimeError(f"{self.describe()} is used outside its `async with`")
        return self._poller
