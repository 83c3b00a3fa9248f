"""The start of a call that cannot start at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pymicro.base.tasks import Tasks
from pymicro.calling.call.ended import Ended
from pymicro.calling.connections.node_channel import Cancellable

__all__ = ["Deferred"]


class Deferred:
    """Waits for a node or for interceptors, and then hands over the underlying call.

    Args:
        begin: Starts the underlying call and returns it; may wait. An exception it
            raises becomes the outcome of the call.
        handover: Gets the underlying call, or the `Ended` in its place, once.
            Returns False if nobody wants the call any more: then it is cancelled.
        tasks: Where the waiting runs.
        live: The list of calls in flight; it holds this one while it waits.
    """

    __slots__ = ("_handover", "_live", "_task", "deadline", "started")

    def __init__(
        self,
        begin: Callable[[], Awaitable[Any]],
        handover: Callable[[Any], bool],
        tasks: Tasks,
        live: set[Cancellable],
        name: str,
        deadline: float | None,
    ) -> None:
        self._handover = handover
        self._live = live
        self.deadline = deadline
        self.started: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        live.add(self)
        self._task = tasks.start(self._run(begin), name)

    async def _run(self, begin: Callable[[], Awaitable[Any]]) -> None:
        try:
            call = await begin()
        except asyncio.CancelledError as exc:
            self._resolve(Ended(exc))
            raise
        except Exception as exc:  # whoever awaits the call gets it
            self._resolve(Ended(exc))
        else:
            self._resolve(call)

    def _resolve(self, call: Any) -> None:
        self._live.discard(self)
        if self.started.done():
            call.cancel()
            return
        self.started.set_result(call)
        if not self._handover(call):
            call.cancel()

    def cancel(self) -> bool:
        """Give up waiting; False if the underlying call had started."""
        if self.started.done():
            return False
        self._resolve(Ended(asyncio.CancelledError()))
        self._task.cancel()
        return True

    async def wait(self) -> Any:
        """The underlying call, or the `Ended` in its place."""
        # Shielded: a caller that waits here may be cancelled, and the call must go on.
        return await asyncio.shield(self.started)
