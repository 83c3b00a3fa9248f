"""The client that commands work with."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pymicro.standalone import Client

__all__ = ["make_client", "run"]

T = TypeVar("T")


def make_client(argv: Sequence[str]) -> Client:
    """A client with the settings of the environment and of `argv`, and a quiet log on stderr."""
    from pymicro import logs  # with Client this is most of what a command takes to start
    from pymicro.standalone import Client

    client = Client(argv=argv)
    config = client.config
    if config.source("log_level") == "default":
        # At info a line for each change of the nodes would stand between a command's own.
        config = config.replace("default", log_level="warning")
    logs.set_up(config)
    return client


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine.

    Ctrl-C cancels it, so that calls in flight are cancelled at the server too;
    then KeyboardInterrupt is raised.
    """
    return asyncio.run(work)
