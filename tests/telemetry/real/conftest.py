"""One scene for all tests of a run: they only read what it left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.telemetry.real.scene import Recording, played


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    """The scene, played to its end; its Prometheus still answers."""
    with played(tmp_path_factory.mktemp("scene")) as recording:
        yield recording
