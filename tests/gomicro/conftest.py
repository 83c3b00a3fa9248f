"""What all tests with Go peers share: the peers, and the matrix of calls at the end of the run.

Run by `make test-gomicro`, which builds the peer.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.gomicro.matrix import Matrix
from tests.gomicro.peers import TRANSPORT, make_image, transport
from tests.gomicro.place import Place
from tests.gomicro.pods import IMAGE
from tests.gomicro.scenes import Scenes

MATRIX = pytest.StashKey[Matrix]()
SAID = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what peers run."""
    folder = tmp_path_factory.mktemp("peers")
    make_image(folder)
    return folder


@pytest.fixture(scope="session")
def place(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where peers run that are plain processes."""
    with Place(image, tmp_path_factory.mktemp("place")) as made:
        yield made


@pytest.fixture(scope="session")
def cluster(image: Path) -> Iterator[Callable[[], Cluster]]:
    """A control plane and a kubelet that know the peers' image, started when they are first asked for."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda: stack.enter_context(Cluster({IMAGE: image})))


@pytest.fixture(scope="session")
def scenes(place: Place, cluster: Callable[[], Cluster]) -> Iterator[Scenes]:
    """A scene for each registry."""
    with Scenes(place, cluster) as made:
        yield made


@pytest.fixture(scope="session")
def matrix(request: pytest.FixtureRequest) -> Matrix:
    """What calls came to."""
    return request.config.stash.setdefault(MATRIX, Matrix())


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Shows a line at the end of the run."""
    return request.config.stash.setdefault(SAID, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    matrix = config.stash.get(MATRIX, None)
    if matrix:
        over = transport().get(TRANSPORT, "grpc")
        terminalreporter.section(f"calls between pymicro (transport {over}) and go-micro 1.18")
        for line in matrix.table():
            terminalreporter.write_line(line)
    said = config.stash.get(SAID, [])
    if said:
        terminalreporter.section("measured with go-micro peers")
        for line in said:
            terminalreporter.write_line(line)
