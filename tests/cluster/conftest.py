"""One real control plane for all tests of a run, one with a kubelet, and what was measured with them.

Run by `make test-cluster`, which builds it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import ROOT, Cluster
from tests.cluster.helm import Helm
from tests.cluster.plane import ControlPlane

SAID = pytest.StashKey[list[str]]()

# https://kubernetes.io/docs/concepts/security/pod-security-standards/
RESTRICTED = "pod-security.kubernetes.io/warn=restricted"


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """A control plane; each test takes a namespace of its own. Who stops a part of it starts it again.

    Without controllers: they would need half a minute to notice that the API server is back.
    """
    with ControlPlane(controllers=()) as started:
        yield started


@pytest.fixture
def strict(plane: ControlPlane, namespace: str) -> str:
    """A namespace in which pods that may do more than they should are warned of."""
    plane.kubectl("label", "namespace", namespace, RESTRICTED)
    return namespace


@pytest.fixture(scope="session")
def extended() -> Iterator[ControlPlane]:
    """One with the custom resources of prometheus-operator and cert-manager, and nobody who acts on them.

    The other one has none, as pymicro needs none; and to take some away again takes a minute now and then.
    """
    with ControlPlane(controllers=()) as started:
        for variable in ("POD_MONITOR", "CERT_MANAGER"):
            place = os.environ.get(variable, "")
            assert place, f"{variable} is not set: run `make test-cluster`"
            # A description is too long for the annotation of a plain apply.
            started.kubectl("create", "-f", place)
            started.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", place)
        yield started


@pytest.fixture
def extended_strict(extended: ControlPlane) -> str:
    """As `strict`, in that one."""
    namespace = extended.namespace()
    extended.kubectl("label", "namespace", namespace, RESTRICTED)
    return namespace


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    """The real helm, with folders of its own."""
    program = os.environ.get("HELM", "")
    assert program, "HELM is not set: run `make test-cluster`"
    return Helm(program, tmp_path / "helm")


@pytest.fixture(scope="session")
def controlled() -> Iterator[ControlPlane]:
    """A control plane with controllers, of which nobody stops anything."""
    with ControlPlane() as started:
        yield started


@pytest.fixture
def namespace(plane: ControlPlane) -> str:
    """A namespace in which nothing is yet."""
    return plane.namespace()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A control plane of its own with a kubelet, for tests that need pods that run."""
    with Cluster({"pymicro-greeter": ROOT / "examples" / "greeter"}) as started:
        yield started


@pytest.fixture
def pods_namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of `cluster` in which nothing is yet; its pods are told to stop afterwards."""
    name = cluster.plane.namespace()
    yield name
    cluster.plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Shows a line at the end of the run, also when all is well: a figure that people want to see."""
    return request.config.stash.setdefault(SAID, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(SAID, [])
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.line(line)
