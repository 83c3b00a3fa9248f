"""The service: what a user writes, and its life from start to stop."""

from __future__ import annotations

import asyncio
import inspect
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack, cast, overload

from pymicro.base.copies import NotCopied
from pymicro.base.errors import ConfigError, PymicroError
from pymicro.base.printable import excerpt
from pymicro.calling.call.channel_state import UNSET, Unset
from pymicro.calling.channel import Channel
from pymicro.nodes.address import join_address
from pymicro.nodes.node import Node
from pymicro.runtime import logs
from pymicro.runtime.background import BackgroundWork
from pymicro.runtime.base_client import BaseClient, Instances, Settings, split_instances
from pymicro.runtime.checks import OwnCheck
from pymicro.runtime.life import Hook, Life, Lifespan, ServiceParts, node_metadata
from pymicro.runtime.life_here import life_here
from pymicro.runtime.lingering import LEFT_THREADS, Lingering, leave
from pymicro.runtime.loops import loop_factory
from pymicro.runtime.process import Process, check_place, hurried_by_interrupts
from pymicro.runtime.supervised import supervisor
from pymicro.serving.server import Server
from pymicro.serving.yielded import StateT
from pymicro.settings import config as configuration
from pymicro.settings.config import Config

if TYPE_CHECKING:
    import grpc

    from pymicro.discovery.registry import Registry

__all__ = ["Service"]


HookT = TypeVar("HookT", bound=Hook)
CheckT = TypeVar("CheckT", bound=Callable[..., Any])
BackgroundT = TypeVar("BackgroundT", bound=Callable[..., Coroutine[Any, Any, Any]])


class Service(NotCopied, Generic[StateT]):
    """A gRPC server under a name, and a client for the services it calls.

        service = Service("greeter", version="1.0.0")
        service.add(Greeter(), greeter_pb2)

        if __name__ == "__main__":
            service.init()
            service.run()

    Args:
        name: The name under which it registers.
        version: The version that its node has; `latest` if empty.
        metadata: Pairs that its node has in the registry.
        on_start: Called before the first call is served, with the service if it
            takes an argument; may be a coroutine function. A failure ends the
            start with exit code 1.
        on_stop: Called like `on_start`, after the last call has ended and the
            lifespan has closed.
        lifespan: `lifespan(service)` is an async context manager. It opens before
            `on_start` and closes after the last call, before `on_stop`. What it yields is
            `state`, and `context.state` in handlers; `Service[Database]` is the type of a
            service whose lifespan yields a `Database`. There is one: a service that opens
            several things opens them in it, and yields an object that has them all.
        interceptors: They run around every served call, the first one outermost:
            functions of our own form, or grpc.aio server interceptors (those run outside). What
            `bearer_jwt`, `kubernetes_jwt` and `api_keys` make goes in here too.
        client_interceptors: They run around every call the service makes.
        options: grpc server arguments; they override pymicro's.
        client_options: grpc channel arguments; they override pymicro's.
        compression: Default compression of responses.
        settings: Every setting, as keywords; see `pymicro.settings.config.Config`.

    Attributes:
        client: The service's client: `channel`, `nodes`, `watch_nodes`, `services`.
        ran: Whether `run()` has been called.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str = "",
        metadata: Mapping[str, str] | None = None,
        on_start: Hook | None = None,
        on_stop: Hook | None = None,
        lifespan: Lifespan[StateT] | None = None,
        interceptors: Sequence[Any] = (),
        client_interceptors: Sequence[Any] = (),
        options: Sequence[tuple[str, Any]] = (),
        client_options: Sequence[tuple[str, Any]] = (),
        compression: grpc.Compression | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        values, instances = split_instances(settings)
        for key, given in (("server_name", name), ("server_version", version), ("server_metadata", metadata)):
            if given and values.setdefault(key, given) != given:
                raise ConfigError(
                    f"{key}= in code: given twice, as {excerpt(given)} and {excerpt(values[key])}"
                )
        if not name:
            raise ConfigError("a service needs a name")
        if inspect.isasyncgenfunction(lifespan):
            raise ConfigError(
                f"lifespan= in code: write @asynccontextmanager above {excerpt(lifespan.__name__)}"
            )
        self._code = values
        self.client = BaseClient(instances, client_interceptors, client_options)
        self.ran = False
        self._parts = ServiceParts(
            interceptors=tuple(interceptors),
            options=tuple(options),
            compression=compression,
            lifespan=lifespan,
            start_hooks=[on_start] if on_start else [],
            stop_hooks=[on_stop] if on_stop else [],
        )
        self._config: Config | None = None
        self._running: Life | None = None

    # What it serves

    def add(
        self,
        servicer: object,
        source: Any = None,
        *,
        partial: bool = False,
        allow: Sequence[str] | None = None,
    ) -> None:
        """Serve the handlers of an object.

        Args:
            servicer: An object with methods marked `@handler`, or an unmodified
                generated servicer.
            source: The generated `_pb2` module or a `ServiceDescriptor`; not needed
                for a generated servicer.
            partial: Whether methods may lack a handler on purpose (they answer
                UNIMPLEMENTED).
            allow: Callers that may call it, as for `@handler`; None for whom the setting
                `allow` names.

        When the service starts, it reports all handlers that do not fit at once.
        """
        self._parts.added.append(lambda server: server.add(servicer, source, partial=partial, allow=allow))

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """For generated code: `add_GreeterServicer_to_server(servicer, service)`."""
        handlers = tuple(generic_rpc_handlers)
        self._parts.added.append(lambda server: server.add_generic_rpc_handlers(handlers))

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """For generated code: `add_GreeterServicer_to_server(servicer, service)`."""
        self._parts.added.append(
            lambda server: server.add_registered_method_handlers(service_name, method_handlers)
        )

    def on_start(self, hook: HookT) -> HookT:
        """Decorator: call this function before the first call is served."""
        self._parts.start_hooks.append(hook)
        return hook

    def on_stop(self, hook: HookT) -> HookT:
        """Decorator: call this function after the last call has ended and the lifespan has closed."""
        self._parts.stop_hooks.append(hook)
        return hook

    # What its lifespan opened, and what runs beside its calls

    @property
    def state(self) -> StateT:
        """What its lifespan yielded, while that is open.

        Where several nodes of a service run in one test, each has a state of its own: this is that
        of the node whose hook, handler or background task asks; elsewhere of the first one.

        Raises:
            PymicroError: It is not running, it has no lifespan, or that is not open.
        """
        return cast("StateT", self._alive.yielded.get())

    @overload
    def background(
        self, function: BackgroundT, /, *, every: float | None = None, name: str = ""
    ) -> BackgroundT: ...

    @overload
    def background(
        self, *, every: float | None = None, name: str = ""
    ) -> Callable[[BackgroundT], BackgroundT]: ...

    def background(self, function: Any = None, *, every: float | None = None, name: str = "") -> Any:
        """Run this coroutine function beside the calls; as a decorator or as a call.

            @service.background(every=60)
            async def refresh():
                await service.state.prices.refresh()

        It begins after lifespan and `on_start`, when the service can be called and before its node
        is registered, and is cancelled when the service drains: it has the `stop_grace` to end,
        beside the calls in flight, and has ended before the lifespan closes. Called while the
        service runs, also from another thread, it begins at once, and belongs to this life only.

        A run that raises is logged, with its traceback. The service and all other tasks go on, and
        so does this one: with a period in its next turn, without after a pause, which grows from
        one second to a minute.

        Args:
            function: What to run. It is called with the service if it takes an argument.
            every: Seconds from the begin of one run to the begin of the next, give or take a
                tenth. A run that takes longer lets turns go by: there are never two at once.
                If None, it runs until it returns.
            name: For the log; the function's own name if empty.

        Raises:
            ConfigError: The function is no coroutine function, or `every` is no time.
            PymicroError: The service is stopping.
        """

        def add(given: BackgroundT) -> BackgroundT:
            own = name or getattr(given, "__name__", type(given).__name__)
            work = BackgroundWork(given, own, every)
            life = self._life
            if life is None:
                self._parts.background.append(work)
            else:
                life.background.add(work)
            return given

        return add if function is None else add(function)

    # Its own health

    def set_health(self, healthy: bool, reason: str = "") -> None:
        """Say that this service is not well, or that it is again.

            service.set_health(False, "database is down")

        A node that is not well says NOT_SERVING (grpc.health.v1) and leaves the registry, so
        that clients choose others; calls that still come are served. `docs/handlers.md` says
        what follows on Kubernetes. It holds until the next word, or until the service stops.
        May be called from any thread, and before the service runs.

        Args:
            healthy: Whether it is well. A node comes back after a second at the earliest, and
                later if it comes and goes again and again. It does not while a check fails.
            reason: For the log; it never leaves the process.
        """
        self._parts.health.set(healthy, reason)

    @property
    def health_problems(self) -> Mapping[str, str]:
        """Why it is not well: a reason by the name of each check that fails, "" for `set_health`."""
        if self._running is not None and self._running.started:
            return self._running.health_problems
        said = self._parts.health.reason
        return {} if said is None else {"": said}

    @overload
    def health_check(self, function: CheckT, /) -> CheckT: ...

    @overload
    def health_check(
        self, *, every: float = 10.0, timeout: float = 5.0, failures: int = 2, name: str = ""
    ) -> Callable[[CheckT], CheckT]: ...

    def health_check(
        self,
        function: Any = None,
        *,
        every: float = 10.0,
        timeout: float = 5.0,
        failures: int = 2,
        name: str = "",
    ) -> Any:
        """Decorator: run this function again and again; while it fails, the service is not well.

            @service.health_check(every=5)
            async def database():
                await pool.execute("select 1")

        The function fails if it raises, returns False or a text that says why, or takes too
        long. It is called with the service if it takes an argument. A plain function runs in a
        thread. All checks run once before the node is registered; one that fails then keeps
        the node out, and the service starts all the same.

        Args:
            function: The check.
            every: Seconds between two runs. After a failure the next one comes in a second.
            timeout: Seconds that a run may take; then it is cancelled. A thread cannot be, so
                the check fails until its thread has ended.
            failures: How many runs in a row must fail until the node leaves; one that
                succeeds brings it back.
            name: For the log; the function's own name if empty.

        Raises:
            ConfigError: An argument cannot be used, or there is a check of that name.
        """

        def add(check: CheckT) -> CheckT:
            own = name or getattr(check, "__name__", type(check).__name__)
            self._parts.health.add(OwnCheck(check, own, every, timeout, failures))
            return check

        return add if function is None else add(function)

    # Settings

    @property
    def name(self) -> str:
        """The name under which it registers."""
        return self._config.server_name if self._config else str(self._code["server_name"])

    @property
    def config(self) -> Config:
        """All settings in force; known after `init()`."""
        if self._config is None:
            raise PymicroError("the settings are not read yet: call init() or run() first")
        return self._config

    def init(self, argv: Sequence[str] | None = None) -> None:
        """Read the settings: flags first, then the environment, a file, code, and the defaults.

        Args:
            argv: The flags. If None, those of `sys.argv`: then bad ones print one
                message and end the process with 2, and `--print-config` and
                `--help` print and end it with 0. A program with flags of its own
                reads them first and passes on the rest.

        A second call with the same resulting settings does nothing.

        Raises:
            ConfigError: If `argv` is given: says what cannot be used, and why.
        """
        if argv is not None:
            self._init(argv)
            return
        flags = sys.argv[1:]
        try:
            if "--help" in flags or "-h" in flags:
                print(_help(self.name))  # noqa: T201
                raise SystemExit(0)
            wanted = [flag for flag in flags if flag not in ("--print-config", "--print_config")]
            self._init(wanted)
        except ConfigError as exc:
            print(f"{self.name}: {exc}", file=sys.stderr)  # noqa: T201
            raise SystemExit(2) from None
        if len(wanted) != len(flags):
            print(configuration.render(self.config))  # noqa: T201
            raise SystemExit(0)

    def config_for(self, argv: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Config:
        """The settings that `init` would find with these flags and variables; changes nothing.

        Raises:
            ConfigError: Says what cannot be used, and why.
        """
        return _with_version(configuration.load(self._code, argv, environ))

    def node_metadata(self, config: Config) -> Mapping[str, str]:
        """The pairs that its node would have with these settings, `metadata` and our own."""
        return node_metadata(config, Server(config, options=self._parts.options))

    def _init(self, argv: Sequence[str]) -> None:
        config = self.config_for(argv)
        if self._config is not None:
            if config != self._config:
                raise ConfigError("init() was called before, with other settings")
            return
        self.client.equip(config)
        self._config = config

    # Calling others

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
    ) -> Channel:
        """A channel to another service; see `Client.channel`. May be called at once."""
        return self.client.channel(
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

    # Life

    @property
    def address(self) -> str:
        """`host:port` it listens on, while it runs."""
        return join_address(*self._alive.bound)

    @property
    def admin_address(self) -> str | None:
        """`host:port` of its admin port, while it runs; None if it has none."""
        admin = self._alive.admin
        return admin.address if admin is not None else None

    @property
    def node(self) -> Node:
        """Its node, as it is registered, while it runs."""
        return self._alive.node

    @property
    def _alive(self) -> Life:
        life = self._life
        if life is None:
            raise PymicroError(f"{self.name} is not running")
        return life

    @property
    def _life(self) -> Life | None:
        """That of the code that asks; in code of none, the first that runs."""
        here = life_here.get()
        return here if here is not None and here.service is self else self._running

    async def __aenter__(self) -> Self:
        """Start it inside another program: no flags are read, and no signals handled but Ctrl-C at its stop.

        Raises:
            ConfigError: Settings or handlers cannot be used.
            StartError: The port is taken, for example.
            RegistryError: The registry cannot work here.
        """
        if self._running is not None:
            raise PymicroError(f"{self.name} is running already")
        if self._config is None:
            self._init(())
        running = self._running = Life(self, self._parts, self.client)
        try:
            await running.start()
        except BaseException:
            self._running = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Deregister, let calls in flight finish, stop."""
        running = self._running
        if running is None:
            raise PymicroError(f"{self.name} is not running")
        try:
            if kind is not None and issubclass(kind, KeyboardInterrupt):
                running.hurry()  # a second Ctrl-C came while the program's own code cleaned up
            with hurried_by_interrupts(running):
                await running.stop()
        except KeyboardInterrupt:  # it came just before it was answered
            running.hurry()
            await running.stop()
            raise
        finally:
            self._running = None

    @asynccontextmanager
    async def apart(
        self, registry: Registry, settings: Mapping[str, Any]
    ) -> AsyncIterator[Callable[[Sequence[Any]], Life]]:
        """Open its client for lives of it that read no flags, environment or file; for `pymicro.testing`.

        Args:
            registry: Used instead of any other.
            settings: They override those given in code.

        Yields a function that makes a life, not started, with interceptors outside the service's
        own. Several lives may run at a time; `address` and `node` are those of the first started.
        """
        if self._running is not None or self._config is not None:
            raise PymicroError(f"{self.name} is running already, or its settings were read by init()")
        config = configuration.load({**self._code, **settings}, (), {})
        only = Instances(registry=registry)
        self._config = config = _with_version(config)
        try:
            self.client.equip(config, only)
            async with self.client:

                def make(interceptors: Sequence[Any]) -> Life:
                    # A life itself needs only the registry of its client.
                    client = BaseClient(only)
                    client.equip(config, only)
                    parts = replace(self._parts, interceptors=(*interceptors, *self._parts.interceptors))
                    life = Life(self, parts, client, calling=self.client)
                    if self._running is None or not self._running.started:
                        self._running = life  # the previous one could not start
                    return life

                yield make
        finally:
            self._config = self._running = None

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; returns after a clean stop.

        Calls `init()` if nobody has.

        Raises:
            SystemExit: 1 if it could not start or its server broke, 2 for bad input or handlers that
                do not fit, 128 + the signal's number after a second signal, 130 if a handler raised
                KeyboardInterrupt. If threads or tasks are still at work 2 s after the grace, the
                process ends here, with 3.
            PymicroError: An event loop runs here already, or this is not the main thread.
        """
        check_place(self.name)
        self.ran = True
        if self._config is None:
            self.init()
        logs.set_up(self.config)
        threads, process = Lingering(), Process(self.name)
        try:
            with asyncio.Runner(loop_factory=loop_factory(self.config.loop)) as runner:
                code = runner.run(self._main(process))
                try:
                    left = 0.0 if code > 128 else process.left_of(self.config.stop_grace)
                    ended = runner.run(threads.have_ended(self.name, left))
                except KeyboardInterrupt:
                    leave(128 + signal.SIGINT)
                if not ended:
                    leave(code or LEFT_THREADS)
        except ConfigError as exc:
            print(f"{self.name}: {exc}", file=sys.stderr)  # noqa: T201
            raise SystemExit(2) from None
        if code:
            raise SystemExit(code)

    async def _main(self, process: Process) -> int:
        """Live until a signal; return the exit code."""
        above = supervisor.get()
        running = self._running = Life(self, self._parts, self.client, above)
        try:
            # The supervisor, if any, answers an interrupt.
            return await process.live(running, interrupts=above is None)
        finally:
            self._running = None


def _with_version(config: Config) -> Config:
    """Give the node a version: go-micro's clients take no node without one."""
    return config if config.server_version else config.replace("default", server_version="latest")


def _help(name: str) -> str:
    """What `python app.py --help` prints: every flag, its meaning and its default."""
    lines = [f"{name}: a pymicro service. Every flag is also an environment variable MICRO_<FLAG>.", ""]
    for setting in configuration.settings().values():
        if not setting.ignored:
            default = setting.kind.show(setting.default)
            lines.append(f"  {setting.flag} {setting.kind.metavar}")
            lines.append(f"      {setting.help}" + (f" (default: {default})" if default else ""))
    lines += ["  --print-config", "      print each setting with its value and source, and exit"]
    return "\n".join(lines)
