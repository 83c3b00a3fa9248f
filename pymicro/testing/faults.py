"""What a node does to its calls before it serves them, or instead."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from pymicro.rpc.interceptors import InterceptedCall, Proceed

__all__ = ["Faults"]


@dataclass(slots=True, eq=False)
class _Fault:
    """Something done to calls of one method, or of all, until it has been done `left` times."""

    method: str | None
    left: float
    do: Callable[[], Awaitable[None]]

    def concerns(self, path: str) -> bool:
        return self.method is None or path.rpartition("/")[2] == self.method


@dataclass(slots=True)
class Faults:
    """A server's interceptor: faults are switched on and off while calls come.

    Attributes:
        calls: How many calls have come, with or without a fault.
    """

    calls: int = 0
    _faults: list[_Fault] = field(default_factory=list)

    async def __call__(self, call: InterceptedCall, proceed: Proceed) -> Any:
        """Apply the faults to this call, then let it proceed."""
        self.calls += 1
        for fault in list(self._faults):
            # While this call waited, a fault may have been mended, or used up by another call.
            if fault in self._faults and fault.concerns(call.method):
                fault.left -= 1
                if fault.left <= 0:
                    self._faults.remove(fault)
                await fault.do()
        return await proceed()

    def fail(self, error: BaseException, method: str | None, times: float) -> None:
        """Raise a copy of `error`."""

        async def do() -> None:
            # A copy, because an exception grows by a traceback each time it is raised.
            raise copy.copy(error)

        self._faults.append(_Fault(method, times, do))

    def slow(self, seconds: float, method: str | None, times: float) -> None:
        """Wait first."""

        async def do() -> None:
            await asyncio.sleep(seconds)

        self._faults.append(_Fault(method, times, do))

    def hang(self, method: str | None, times: float) -> None:
        """Never answer: the call ends by its deadline, or when it is cancelled."""

        async def do() -> None:
            await asyncio.Event().wait()

        self._faults.append(_Fault(method, times, do))

    def mend(self) -> None:
        """Serve as usual again; calls that wait go on waiting."""
        self._faults.clear()
