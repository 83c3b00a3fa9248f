"""The client for programs without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

import grpc

from pymicro.base.copies import NotCopied
from pymicro.base.errors import ConfigError, PymicroError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.calling.call.channel_state import UNSET, Unset
from pymicro.client import Client
from pymicro.runtime.base_client import Settings
from pymicro.sync.channel import SyncChannel
from pymicro.sync.thread import Latch, LoopThread, forked, loop_thread

if TYPE_CHECKING:
    from pymicro.discovery.registry import Registry
    from pymicro.nodes.node import Node, NodeSet
    from pymicro.settings.config import Config

__all__ = ["SyncClient"]

log = logger("pymicro.client")

_SYNCHRONOUS = (
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
)


class SyncClient(NotCopied):
    """Calls services by name, with the settings of the environment, and awaits nothing.

        client = pymicro.sync.Client()
        stub = greeter_pb2_grpc.GreeterStub(client.channel("greeter"))
        reply = stub.SayHello(request, timeout=2)

    For Flask, Django, notebooks and scripts. Make one for a process and keep it: many threads may
    use it. All such clients of a process share one event loop, in a thread that the first call
    starts. It is open from its first call on, and closed by `close()`, by the end of a `with`, or
    when the process ends.

    Args:
        interceptors: They run around every call, in the loop's thread: `async def f(call, proceed)`,
            or grpc.aio client interceptors. Those of grpc's synchronous classes are put around a
            channel, by `grpc.intercept_channel(client.channel("greeter"), interceptor)`.
        options: grpc channel arguments for every channel; they override pymicro's.
        compression: Default compression of every channel.
        argv: Flags that override environment and keywords, for programs that
            read their own.
        environ: The environment; None means that of the process.
        settings: Every setting, as keywords; see `pymicro.Config`.

    Raises:
        ConfigError: A setting, variable, flag or plug-in cannot be used.
    """

    def __init__(
        self,
        *,
        interceptors: Sequence[Any] = (),
        options: Sequence[tuple[str, Any]] = (),
        compression: grpc.Compression | None = None,
        argv: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        _check_interceptors(interceptors)
        self._client = Client(
            interceptors=interceptors,
            options=options,
            compression=compression,
            argv=argv,
            environ=environ,
            **settings,
        )
        # What keeps it open, under "it", while it is open or about to be: of several threads that open it,
        # the first keeps its own. There is no lock, as in LoopThread.
        self._keepers: dict[str, _Keeper] = {}
        self._closed = False

    @property
    def config(self) -> Config:
        """All settings in force."""
        return self._client.config

    @property
    def registry(self) -> Registry:
        """The registry in use."""
        return self._client.registry

    @property
    def admin_address(self) -> str | None:
        """`host:port` of its admin port, while it is open; None if it has none."""
        return self._client.admin_address

    @property
    def thread(self) -> LoopThread | None:
        """Where it runs; None unless it is open."""
        keeper = self._keepers.get("it")
        opened = keeper is not None and keeper.opened.is_set and not keeper.thread.lost
        return keeper.thread if keeper is not None and opened else None

    def opened(self) -> LoopThread:
        """Where it runs; it is opened now if it is not.

        Raises:
            PymicroError: It is closed, or the process was forked after its first use.
            RegistryError: The registry cannot work here.
        """
        keeper = self._keepers.get("it")
        if keeper is None or not keeper.opened.is_set:
            keeper = self._open()
        if keeper.thread.lost:
            raise forked()
        return keeper.thread

    def _open(self) -> _Keeper:
        if self._closed:
            raise _closed()
        thread = loop_thread(self.config.loop)
        keeper = self._keepers.setdefault("it", _Keeper(thread, self._client, self._keepers))
        if self._closed:  # since then
            self._keepers.pop("it", None)
            raise _closed()
        keeper.thread.check(_OPENING)
        # In no context: what it starts for all must not keep the first caller's span or request.
        Context().run(keeper.thread.post, keeper.begin)
        # Whoever is interrupted here leaves it to go on, for the next call.
        keeper.thread.wait(keeper.opened, _OPENING)
        if keeper.error is not None:
            raise keeper.error
        return keeper

    def close(self) -> None:
        """End all calls in flight and close every connection; may be called again."""
        self._closed = True
        keeper = self._keepers.pop("it", None)
        if keeper is not None and not keeper.thread.lost:
            keeper.thread.run(keeper.close, "the end of a client")

    def __enter__(self) -> Self:
        self.opened()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        keepers: dict[str, _Keeper] = self.__dict__.get("_keepers", {})
        for keeper in keepers.values():
            with suppress(PymicroError):  # the process was forked, or ends
                keeper.thread.post(keeper.let_go)

    def channel(
        self,
        service: str,
        *,
        address: str | Iterable[str] | None = None,
        version: str | None = None,
        metadata: Mapping[str, str] | None = None,
        endpoint: str | None = None,
        timeout: float | Unset | None = UNSET,
        idempotent: Iterable[str] = (),
        interceptors: Sequence[Any] = (),
        options: Sequence[tuple[str, Any]] = (),
        compression: grpc.Compression | None = None,
    ) -> SyncChannel:
        """A `grpc.Channel` to a service, for generated stubs.

        The arguments are those of `pymicro.Client.channel`; of interceptors those that this client
        takes. It opens nothing before the first call.

        Raises:
            ConfigError: An argument that cannot be used; an option that grpc refuses.
        """
        _check_interceptors(interceptors)
        made = self._client.channel(
            service,
            address=address,
            version=version,
            metadata=metadata,
            endpoint=endpoint,
            timeout=timeout,
            idempotent=idempotent,
            interceptors=interceptors,
            options=options,
            compression=compression,
        )
        return SyncChannel(self, made)

    def nodes(self, service: str, *, timeout: float | None = None) -> tuple[Node, ...]:
        """The nodes of a service by the first answer, which this waits for.

        Args:
            service: The service's name.
            timeout: Seconds to wait, since a registry that cannot be reached is asked again
                and again; None for no limit.

        Raises:
            RegistryError: The source cannot be asked, or gave no answer in time.
        """
        return self.opened().run(
            lambda: self._client.nodes(service, timeout=timeout), f"the question for the nodes of {service}"
        )

    def watch_nodes(self, service: str) -> Iterator[NodeSet]:
        """The nodes of a service, now and after each change; close the iterator when done.

        Raises:
            RegistryError: The source cannot be asked.
        """
        thread = self.opened()
        watch = self._client.watch_nodes(service)

        async def following() -> NodeSet | None:
            return await anext(watch, None)

        async def end() -> None:
            with suppress(AttributeError):  # an iterator need not have it
                await watch.aclose()  # type: ignore[attr-defined]

        try:
            while (nodes := thread.run(following, f"the watch of the nodes of {service}")) is not None:
                yield nodes
        finally:
            # Not waited for: this may be collected in any thread.
            with suppress(PymicroError):
                thread.post(lambda: thread.start(end()))

    def services(self) -> list[str]:
        """Names of the services that have nodes, sorted.

        Raises:
            RegistryError: The registry cannot be asked, or cannot list.
        """
        return self.opened().run(self._client.services, "the question for services")


_OPENING = "the opening of a client"


def _closed() -> PymicroError:
    return PymicroError("this synchronous client is closed: make another one")


class _Keeper:
    """Enters and leaves a client in one task, as what it opens may ask for.

    Args:
        kept: Where the client has it, under "it", until it could not be opened.

    Attributes:
        opened: Set when the client is open, or cannot be opened.
        error: Why it cannot; None if it is open.
    """

    def __init__(self, thread: LoopThread, client: Client, kept: dict[str, _Keeper]) -> None:
        self.thread = thread
        self.opened = Latch()
        self.error: BaseException | None = None
        self._client = client
        self._kept = kept
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # All of these in the loop

    def begin(self) -> None:
        """Open the client, unless that has begun; returns at once."""
        if self._task is None:
            self._task = self.thread.start(self._keep())
            self.thread.at_exit.add(self.close)

    async def close(self) -> None:
        """Close it; may be called again."""
        self.let_go()
        if self._task is not None:
            await asyncio.wait({self._task})

    def let_go(self) -> None:
        """Begin to close it."""
        self.thread.at_exit.discard(self.close)
        self._closing.set()
        if self._task is not None and not self.opened.is_set:
            self._task.cancel()

    async def _keep(self) -> None:
        try:
            async with self._client:
                self._told()
                await self._closing.wait()
        except BaseException as exc:
            if not self.opened.is_set:
                # Cancelled: the client was closed before it was open.
                self._told(_closed() if isinstance(exc, asyncio.CancelledError) else exc)
            elif isinstance(exc, Exception):
                log.exception("a synchronous client could not be closed")
            if not isinstance(exc, Exception):
                raise

    def _told(self, error: BaseException | None = None) -> None:
        if error is not None:
            self.error = error
            self.thread.at_exit.discard(self.close)
            if self._kept.get("it") is self:  # the next call tries again
                del self._kept["it"]
        if not self.thread.ending:
            self.opened.set()


def _check_interceptors(interceptors: Sequence[Any]) -> None:
    for interceptor in interceptors:
        if isinstance(interceptor, _SYNCHRONOUS) and not isinstance(interceptor, grpc.aio.ClientInterceptor):
            raise ConfigError(
                f"interceptors= in code: {excerpt(interceptor)} is of grpc's synchronous kind: put it "
                "around a channel, `grpc.intercept_channel(client.channel(…), interceptor)`"
            )
