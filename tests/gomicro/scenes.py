"""One scene for each registry: a server and a client in either language, all of them with that registry.

Both servers are there when a scene is ready, and both clients see them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, Self

from tests.cluster.cluster import Cluster
from tests.cluster.plane import eventually
from tests.gomicro.matrix import CODECS, TO_GO
from tests.gomicro.peers import Caller, Object
from tests.gomicro.place import Place
from tests.gomicro.pods import namespace

# As go-micro's services are usually called.
GO, PYTHON = "go.micro.srv.golang", "go.micro.srv.python"
PROTO = CODECS["proto"]
# What the clients say of themselves.
GO_CLIENT, PYTHON_CLIENT = "go.peer.client", "python.peer.client"


class Peer(Protocol):
    """A server that runs somewhere.

    Attributes:
        name: Its service's name.
        node: The id of its node.
        address: Of that node.
    """

    name: str
    node: str
    address: str

    def touch(self) -> None:
        """Change something where it is registered that means nothing.

        go-micro's watch on Kubernetes passes over the event by which a pod appears to it, and over all
        of its first second; by the next one it finds what it has missed.
        """

    def stop(self) -> None:
        """SIGTERM; it must end well."""

    def kill(self) -> None:
        """SIGKILL."""


@dataclass
class Scene:
    """A registry and those that use it.

    Attributes:
        go_caller: A client as it comes.
        new_go_caller: Starts another, with further variables.
        start: Starts another server, given language, service and id; returns once it is registered.
        pymicro: Runs `pymicro …` with that registry and returns what it printed.
    """

    registry: str
    go: Peer
    python: Peer
    go_caller: Caller
    new_go_caller: Callable[..., Caller]
    python_caller: Caller
    start: Callable[..., Peer]
    pymicro: Callable[..., str]
    _by_codec: dict[str, Caller] = field(default_factory=dict)

    def call(self, direction: str, **command: Any) -> Object:
        """Make one call, which nobody tries again; without a registry by address."""
        if direction == TO_GO:
            return self.python_caller.ask("call", service=GO, **command)
        return self.ask_go("call", **command)

    def ask_go(self, op: str, *, codec: str = PROTO, **command: Any) -> Object:
        """Ask a Go client that uses one codec for something about the server in Python.

        Its connections keep the codec of the call that they were made for: one that mixes codecs sends
        protobuf and calls it JSON.
        """
        command |= {"service": PYTHON, "codec": codec}
        if self.registry == "direct":
            command["address"] = self.python.address
        if codec not in self._by_codec:
            caller = self.new_go_caller(MICRO_CLIENT_RETRIES="0")
            # From here on it knows the node: its look-up over mdns takes what has arrived in 100 ms, and
            # keeps it for a minute. A stream has a connection of its own.
            first = {**command, "shape": "bidi", "texts": ["?"]}
            eventually(f"{caller.name} finds {PYTHON}", lambda: "error" not in caller.ask("call", **first))
            self._by_codec[codec] = caller
        return self._by_codec[codec].ask(op, **command)

    def server(self, direction: str) -> Peer:
        """Who answers."""
        return self.go if direction == TO_GO else self.python


def wait_for_both(go_caller: Caller, python_caller: Caller) -> None:
    """Until each client sees both services."""
    for service in (GO, PYTHON):
        in_go = partial(go_caller.ask, "get_service", service=service)
        in_python = partial(python_caller.ask, "nodes", service=service)
        eventually(f"Go sees {service}", lambda ask=in_go: ask().get("services"))
        eventually(f"Python sees {service}", lambda ask=in_python: ask()["nodes"])


@contextlib.contextmanager
def direct(place: Place) -> Iterator[Scene]:
    """No registry: addresses."""
    alone = {"MICRO_REGISTRY": "memory"}
    go, python = place.server("go", GO, "one", **alone), place.server("python", PYTHON, "one", **alone)
    known = {"MICRO_REGISTRY": "static", "MICRO_REGISTRY_ADDRESS": f"{GO}={go.address}"}
    yield Scene(
        "direct",
        go,
        python,
        place.go_caller(**alone),
        partial(place.go_caller, **alone),
        place.python_caller(MICRO_SERVER_NAME=PYTHON_CLIENT, **known),
        partial(place.server, **alone),
        partial(place.run, **known),
    )


@contextlib.contextmanager
def registered(place: Place, registry: str, **env: str) -> Iterator[Scene]:
    """Plain processes, all with the same settings."""
    env |= {"MICRO_REGISTRY": registry}
    go, python = place.server("go", GO, "one", **env), place.server("python", PYTHON, "one", **env)
    go_caller = place.go_caller(**env)
    python_caller = place.python_caller(MICRO_SERVER_NAME=PYTHON_CLIENT, **env)
    wait_for_both(go_caller, python_caller)
    start, pymicro = partial(place.server, **env), partial(place.run, **env)
    yield Scene(
        registry, go, python, go_caller, partial(place.go_caller, **env), python_caller, start, pymicro
    )


@contextlib.contextmanager
def kubernetes(cluster: Cluster) -> Iterator[Scene]:
    """Pods that register themselves."""
    with namespace(cluster) as pods:
        go, python = pods.server("go", GO, "one"), pods.server("python", PYTHON, "one")
        go_caller, python_caller = pods.go_caller(), pods.python_caller(PYTHON_CLIENT)
        wait_for_both(go_caller, python_caller)
        yield Scene("kubernetes", go, python, go_caller, pods.go_caller, python_caller, pods.server, pods.run)


class Scenes:
    """Scenes of a run, each made when it is first asked for. Left, it ends them all.

    Args:
        place: Where processes run.
        cluster: Starts the cluster, or gives the one that runs.
    """

    def __init__(self, place: Place, cluster: Callable[[], Cluster]) -> None:
        self._makers: dict[str, Callable[[], contextlib.AbstractContextManager[Scene]]] = {
            "direct": lambda: direct(place),
            "etcd": lambda: registered(place, "etcd", MICRO_REGISTRY_ADDRESS=place.etcd()),
            "mdns": lambda: registered(place, "mdns"),
            "kubernetes": lambda: kubernetes(cluster()),
        }
        self._stack = contextlib.ExitStack()
        self._made: dict[str, Scene | Exception] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self, registry: str) -> Scene:
        """The scene of a registry; one that could not be made is not tried again."""
        if registry not in self._made:
            try:
                self._made[registry] = self._stack.enter_context(self._makers[registry]())
            except Exception as exc:
                self._made[registry] = exc
        found = self._made[registry]
        if isinstance(found, Exception):
            raise AssertionError(f"no scene for {registry}: {found}") from found
        return found
