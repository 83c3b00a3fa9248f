"""What calls over transport `fast` need of the connection that they came on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from pymicro_fast import Session

if TYPE_CHECKING:
    import grpc

    from pymicro.base.deadlines import Deadlines
    from pymicro.serving.fast.peer import PeerFacts
    from pymicro.serving.transport import ServedMethods

__all__ = ["ServingSession", "starter"]

Start = Callable[[Any, Coroutine[Any, Any, None]], None]


class ServingSession(Session):
    """A connection with what its calls use of it; `ServedConnection` is one.

    Attributes:
        loop: The event loop.
        deadlines: Who watches those of its calls.
        methods: What is served here.
        start: Runs a call's method in a task, which is the call's `task` from then on.
        peer: The other end's address in grpc's form.
        encryption: Its TLS; None in plain text.
        peer_facts: What `peer_of` has found out of it; None before somebody asks.
        running: Calls whose methods run, also those whose streams have closed.
        most_running: How many may.
        cancelled: Tasks of all connections that were cancelled because their callers have gone.
        compression: Of responses that do not say.
        max_sent: The largest message that is sent; -1 for no limit.
    """

    loop: asyncio.AbstractEventLoop
    deadlines: Deadlines
    methods: ServedMethods
    start: Start
    peer: str
    encryption: Any
    peer_facts: PeerFacts | None
    running: set[Any]
    most_running: int
    cancelled: set[asyncio.Task[Any]]
    compression: grpc.Compression | None
    max_sent: int


def starter(loop: asyncio.AbstractEventLoop) -> Start:
    """How methods are started on this loop: at once, if Python can do that and nobody makes tasks himself."""
    if sys.version_info >= (3, 12) and loop.get_task_factory() is None:

        def start(call: Any, coroutine: Coroutine[Any, Any, None]) -> None:
            # It sets `call.task` itself: by the end of this line it may have ended.
            asyncio.Task(coroutine, loop=loop, eager_start=True)

    else:

        def start(call: Any, coroutine: Coroutine[Any, Any, None]) -> None:
            call.task = loop.create_task(coroutine)

    return start
