"""What calls over transport `fast` need of the connection that they came on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pymicro_fast import Session

if TYPE_CHECKING:
    import grpc

    from pymicro.base.deadlines import Deadlines
    from pymicro.serving.transport import ServedMethods

__all__ = ["ServingSession"]


class ServingSession(Session):
    """A connection with what its calls use of it; `ServedConnection` is one.

    Attributes:
        loop: The event loop.
        deadlines: Who watches those of its calls.
        methods: What is served here.
        peer: The other end's address in grpc's form.
        running: Calls whose methods run, also those whose streams have closed.
        most_running: How many may.
        cancelled: Tasks of all connections that were cancelled because their callers have gone.
        compression: Of responses that do not say.
        max_sent: The largest message that is sent; -1 for no limit.
    """

    loop: asyncio.AbstractEventLoop
    deadlines: Deadlines
    methods: ServedMethods
    peer: str
    running: set[Any]
    most_running: int
    cancelled: set[asyncio.Task[Any]]
    compression: grpc.Compression | None
    max_sent: int
