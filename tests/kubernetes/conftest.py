"""What the tests of Kubernetes share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def library() -> None:
    """Import kubernetes_asyncio before a test waits for nodes: on a busy machine that takes seconds."""
    import kubernetes_asyncio.client.rest
    import kubernetes_asyncio.config.exec_provider  # noqa: F401
