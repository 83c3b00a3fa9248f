"""What the tests of Kubernetes share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def library() -> None:
    """Import what requests need before a test waits for nodes: on a busy machine that takes seconds."""
    import yaml  # noqa: F401
