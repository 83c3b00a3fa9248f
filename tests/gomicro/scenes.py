"""One scene for each registry: a server and a client in either language, all of them with that registry.

Both servers are there when a scene is ready, and both clients see them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from tests.cluster.cluster import Cluster
from tests.cluster.plane import eventually
from tests.gomicro.matrix import TO_GO
from tests.gomicro.peers import Caller, Object
from tests.gomicro.place import Place
from tests.gomicro.pods import namespace

# As go-micro's services are usually called.
GO, PYTHON = "go.micro.srv.golang", "go.micro.srv.python"
# What the clients say of themselves.
GO_CLIENT, PYTHON_CLIENT = "go.peer.client", "python.peer.client"


@dataclass(frozen=True, slots=True)
class Peer:
    """A server, wherever it runs."""

    name: str
    node: str
    address: str


@dataclass(frozen=True, slots=True)
class Scene:
    """Attributes: a server and a client in either language."""

    registry: str
    go: Peer
    python: Peer
    go_caller: Caller
    python_caller: Caller

    def call(self, direction: str, **command: Any) -> Object:
        """Make one call; without a registry by address."""
        if direction == TO_GO:
            return self.python_caller.ask("call", service=GO, **command)
        if self.registry == "direct":
            command["address"] = self.python.address
        return self.go_caller.ask("call", service=PYTHON, **command)

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
    go = place.go_server(GO, "one", MICRO_REGISTRY="memory")
    python = place.python_server(PYTHON, "one", MICRO_REGISTRY="memory")
    yield Scene(
        "direct",
        Peer(GO, go.node, go.address),
        Peer(PYTHON, python.node, python.address),
        place.go_caller(MICRO_REGISTRY="memory"),
        place.python_caller(
            MICRO_SERVER_NAME=PYTHON_CLIENT,
            MICRO_REGISTRY="static",
            MICRO_REGISTRY_ADDRESS=f"{GO}={go.address}",
        ),
    )


@contextlib.contextmanager
def etcd(place: Place) -> Iterator[Scene]:
    """A real etcd."""
    with registered(place, "etcd", MICRO_REGISTRY="etcd", MICRO_REGISTRY_ADDRESS=place.etcd()) as scene:
        yield scene


@contextlib.contextmanager
def mdns(place: Place) -> Iterator[Scene]:
    """Multicast on the loopback of the namespace."""
    with registered(place, "mdns", MICRO_REGISTRY="mdns") as scene:
        yield scene


@contextlib.contextmanager
def registered(place: Place, registry: str, **env: str) -> Iterator[Scene]:
    """Plain processes with the same settings."""
    go = place.go_server(GO, "one", **env)
    python = place.python_server(PYTHON, "one", **env)
    go_caller = place.go_caller(**env)
    python_caller = place.python_caller(MICRO_SERVER_NAME=PYTHON_CLIENT, **env)
    wait_for_both(go_caller, python_caller)
    yield Scene(
        registry,
        Peer(GO, go.node, go.address),
        Peer(PYTHON, python.node, python.address),
        go_caller,
        python_caller,
    )


@contextlib.contextmanager
def kubernetes(cluster: Cluster) -> Iterator[Scene]:
    """Pods that register themselves."""
    with namespace(cluster) as pods:
        (go,) = pods.deploy("golang", GO, "go")
        (python,) = pods.deploy("python", PYTHON, "python")
        go_caller, python_caller = pods.go_caller(), pods.python_caller(PYTHON_CLIENT)
        wait_for_both(go_caller, python_caller)
        yield Scene(
            "kubernetes",
            Peer(GO, f"{GO}-{go.name}", f"{go.ip}:8080"),
            Peer(PYTHON, python.name, f"{python.ip}:8080"),
            go_caller,
            python_caller,
        )


class Scenes:
    """Scenes of a run, each made when it is first asked for. Left, it ends them all.

    Args:
        place: Where processes run.
        cluster: Starts the cluster, or gives the one that runs.
    """

    def __init__(self, place: Place, cluster: Callable[[], Cluster]) -> None:
        self._makers: dict[str, Callable[[], contextlib.AbstractContextManager[Scene]]] = {
            "direct": lambda: direct(place),
            "etcd": lambda: etcd(place),
            "mdns": lambda: mdns(place),
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
