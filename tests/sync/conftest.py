"""The synchronous client over each transport, and a service in another process."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pymicro.sync import Client, thread
from tests.processes import Processes, clean_environment
from tests.protos import zoo_pb2 as pb
from tests.protos import zoo_pb2_grpc as rpc

TRANSPORTS = ["grpc", *(["fast"] if find_spec("pymicro_fast") else [])]


@dataclass(frozen=True)
class Served:
    """The service that runs.

    Attributes:
        address: `host:port`.
        registry: The registry `local` that it is in.
    """

    address: str
    registry: str

    @property
    def settings(self) -> dict[str, Any]:
        """Those of a client that finds it."""
        return {"environ": {}, "registry": "local", "registry_address": self.registry}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("registry")
    folder.chmod(0o700)
    programs = Processes(clean_environment(MICRO_REGISTRY_ADDRESS=str(folder)))
    process = programs.python("-m", "tests.sync.served")
    found = process.wait_for(r"zoo latest on (127\.0\.0\.1:\d+), registered")
    yield Served(found[1], str(folder))
    programs.end()


@pytest.fixture(autouse=True)
def own_loop() -> Iterator[None]:
    """Each test has a loop of its own, and leaves no thread behind."""
    before = set(threading.enumerate())
    yield
    current = thread._current.pop("it", None)
    if current is not None:
        atexit.unregister(current.stop)
        current.stop()
    eventually(lambda: not left(before), lambda: f"threads are gone: {left(before)}")


def left(before: set[threading.Thread]) -> list[str]:
    """Threads of pymicro's that were not there before; the one for callbacks waits for more."""
    return [
        one.name
        for one in set(threading.enumerate()) - before
        if one.name.startswith("pymicro") and one.name != "pymicro sync callbacks"
    ]


@pytest.fixture(params=TRANSPORTS)
def client(request: pytest.FixtureRequest, served: Served) -> Iterator[Client]:
    """A client of the service, over each transport."""
    with Client(**served.settings, transport=request.param) as client:
        yield client


@pytest.fixture
def stub(client: Client) -> Any:
    return rpc.KeeperStub(client.channel("zoo"))


def eventually(condition: Callable[[], object], what: Callable[[], str] | str, timeout: float = 20) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"never happened: {what if isinstance(what, str) else what()}")
        time.sleep(0.005)


def live(stub: Any, name: str) -> int:
    """How many calls of this name the service works on."""
    return int(stub.Import(pb.Animal(name=f"live:{name}")).legs)
