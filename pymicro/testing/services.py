"""Services running in a test's own process, with a client that finds them.

    async with running(service) as services:
        stub = greeter_pb2_grpc.GreeterStub(services.channel("greeter"))
        reply = await stub.SayHello(greeter_pb2.HelloRequest(name="Ada"))

Everything between the stub and the handler is real: sockets on 127.0.0.1, statuses,
deadlines, balancing, retries. Only the registry is inside this process (`memory`), and
neither flags nor environment nor a file are read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from typing import TYPE_CHECKING, Any, Unpack

from pymicro.base.errors import PymicroError
from pymicro.base.suggest import did_you_mean
from pymicro.client import Client
from pymicro.discovery.registries.memory import MemoryRegistry
from pymicro.rpc.status import RpcError, Unavailable
from pymicro.testing.faults import Faults

if TYPE_CHECKING:
    from pymicro.calling.channel import Channel
    from pymicro.nodes.node import Node
    from pymicro.runtime.base_client import Settings
    from pymicro.runtime.life import Life
    from pymicro.service import Service

__all__ = ["Running", "RunningNode", "running"]

# Each test has its own port. No process elsewhere must see a node leave. A handler that a test
# has forgotten must not delay it by 20 s. What a test's clients call is there before them.
_SETTINGS = {
    "server_address": "127.0.0.1:0",
    "server_advertise": "",
    "server_id": "",
    "admin_address": "off",
    "client_first_wait": 0.0,
    "selector": "registry",
    "drain_delay": 0.0,
    "stop_grace": 1.0,
}


class _Registry(MemoryRegistry):
    # Readers see a node leave at once, so a stop need not wait for them.
    notice = 0.0


class RunningNode:
    """One node of a service, whose faults a test switches on and off.

    `fail`, `slow` and `hang` affect calls that begin afterwards. `method` is a method's
    name (`SayHello`), or None for all methods; `times` is how many calls are affected, all
    if not given.

    Attributes:
        service: The service that this is a node of.
        node: The node as registered.
    """

    def __init__(self, service: Service, life: Life, faults: Faults, registry: MemoryRegistry) -> None:
        self.service = service
        self._life = life
        self._faults = faults
        self._registry = registry
        self._stopped = False

    def __repr__(self) -> str:
        return f"<RunningNode {self.node.service} at {self.node.address}>"

    @property
    def node(self) -> Node:
        """Its record in the registry."""
        return self._life.node

    @property
    def address(self) -> str:
        """`127.0.0.1:port`."""
        return self.node.address

    @property
    def state(self) -> Any:
        """What its lifespan yielded; each node has a state of its own.

        Raises:
            PymicroError: It has no lifespan, or has stopped.
        """
        return self._life.yielded.get()

    @property
    def calls(self) -> int:
        """How many calls have come to it, including those that a fault ended."""
        return self._faults.calls

    def fail(self, error: RpcError | None = None, *, method: str | None = None, times: float = inf) -> None:
        """Answer calls with an error before they reach the handler; UNAVAILABLE if none is given."""
        failure = Unavailable("made to fail by a test") if error is None else error
        self._faults.fail(failure, self._known(method), times)

    def slow(self, seconds: float, *, method: str | None = None, times: float = inf) -> None:
        """Let calls wait before they reach the handler."""
        self._faults.slow(seconds, self._known(method), times)

    def hang(self, *, method: str | None = None, times: float = inf) -> None:
        """Take calls and never answer them."""
        self._faults.hang(self._known(method), times)

    def mend(self) -> None:
        """End the effects of `fail`, `slow` and `hang`."""
        self._faults.mend()

    async def vanish(self, *, listed: bool = True) -> None:
        """End it as a crash does: its calls break, its port refuses connections.

        Args:
            listed: Whether the registry goes on listing it, as after a crash that nobody
                has noticed yet.
        """
        await self._life.crash()
        if not listed:
            await self._registry.deregister(self.node)

    async def stop(self) -> None:
        """Stop it as SIGTERM does: deregister it first, and let calls in progress finish."""
        if not self._stopped:
            self._stopped = True
            await self._life.stop()

    def _known(self, method: str | None) -> str | None:
        if method is None:
            return None
        methods = sorted({endpoint.name.rpartition(".")[2] for endpoint in self.node.endpoints})
        if method not in methods:
            listing = ", ".join(methods)
            raise ValueError(
                f"{self.node.service} has no method {method!r} (it has {listing})"
                f"{did_you_mean(method, methods)}"
            )
        return method


class Running:
    """Services that run in this process; made by `running`.

    Attributes:
        client: Finds these services, and no others.
        registry: The registry that they are registered in.
    """

    def __init__(self, client: Client, registry: MemoryRegistry, settings: dict[str, Any]) -> None:
        self.client = client
        self.registry = registry
        self._settings = settings
        self._stack = AsyncExitStack()
        self._makers: dict[Service, Callable[[Sequence[Any]], Life]] = {}
        self._nodes: list[RunningNode] = []

    def channel(self, service: Service | str, **options: Any) -> Channel:
        """A channel to a service, for its stub; `options` are those of `Client.channel`."""
        return self.client.channel(service if isinstance(service, str) else service.name, **options)

    @property
    def nodes(self) -> tuple[RunningNode, ...]:
        """All nodes that were started, in that order."""
        return tuple(self._nodes)

    @property
    def node(self) -> RunningNode:
        """The only node.

        Raises:
            PymicroError: There are several, or none.
        """
        if len(self._nodes) != 1:
            raise PymicroError(f"{len(self._nodes)} nodes run: say which, as in nodes[0]")
        return self._nodes[0]

    async def start(self, service: Service) -> RunningNode:
        """Start a node; a service that already runs gets a further one.

        Raises:
            HandlersError: Its handlers do not fit their protos.
            PymicroError: The service runs somewhere else, or could not start.
        """
        maker = self._makers.get(service)
        if maker is None:
            maker = self._makers[service] = await self._stack.enter_async_context(
                service.apart(self.registry, self._settings)
            )
        faults = Faults()
        life = maker([faults])
        await life.start()
        node = RunningNode(service, life, faults, self.registry)
        self._stack.push_async_callback(node.stop)
        self._nodes.append(node)
        return node

    async def close(self) -> None:
        """Stop all nodes, the last one first."""
        await self._stack.aclose()


@asynccontextmanager
async def running(*services: Service, **settings: Unpack[Settings]) -> AsyncIterator[Running]:
    """Run services, and a client that finds them, in this process.

    Args:
        services: One node of each is started, in this order; they find each other. A service
            given several times has several nodes. Their hooks and lifespans run.
        settings: For all of them and the client; they override code: `client_retries=0`.

    Raises:
        HandlersError: Handlers do not fit their protos.
        PymicroError: A service runs somewhere else, or could not start.
    """
    registry = _Registry()
    given: dict[str, Any] = {**_SETTINGS, **settings, "registry": "memory"}
    calling: Settings = {
        "client_first_wait": 0.0,
        **settings,
        "registry": registry,
        "selector": "registry",
    }
    async with Client(environ={}, **calling) as client:
        found = Running(client, registry, given)
        try:
            for service in services:
                await found.start(service)
            yield found
        finally:
            await found.close()
