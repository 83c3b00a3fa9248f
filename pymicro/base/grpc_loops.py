"""Which event loop of this process has gRPC: grpc.aio works in one of them only (grpc#25364).

In two loops at a time it mostly seems to work: both wake for each event, one of them finds nothing to
read, and its log fills with tracebacks of a BlockingIOError. pymicro's synchronous clients have a
loop of their own, so whoever uses gRPC in an asynchronous program beside them is told.
"""

from __future__ import annotations

import asyncio
import os
import threading

from pymicro.base.errors import PymicroError

__all__ = ["GrpcUse", "keep_for_sync_clients", "use_grpc_here"]

_lock = threading.Lock()
_uses: list[GrpcUse] = []
_sync: asyncio.AbstractEventLoop | None = None


class GrpcUse:
    """Something that uses gRPC in a loop, until `end`.

    Args:
        what: Names it in messages: `the service greeter`.
    """

    def __init__(self, what: str, loop: asyncio.AbstractEventLoop) -> None:
        self.what = what
        self.loop = loop

    def end(self) -> None:
        """It uses gRPC no more; may be called again."""
        with _lock:
            if self in _uses:
                _uses.remove(self)


def keep_for_sync_clients(loop: asyncio.AbstractEventLoop | None) -> None:
    """This loop is that of the synchronous clients; None when it has ended."""
    global _sync
    _sync = loop


def use_grpc_here(what: str) -> GrpcUse:
    """Call this before grpc.aio is used in the loop that runs here.

    Two loops of a program's own are its own business, as in grpc.aio.

    Raises:
        PymicroError: One of this loop and another one with gRPC is that of the synchronous clients.
    """
    loop = asyncio.get_running_loop()
    with _lock:
        for other in list(_uses):
            if other.loop.is_closed():
                _uses.remove(other)
            elif other.loop is not loop and _sync is not None and _sync in (loop, other.loop):
                raise PymicroError(
                    f"{_named(what, loop)} cannot use gRPC beside {_named(other.what, other.loop)}: gRPC "
                    "works in one event loop of a process only (grpc#25364), and synchronous clients have a "
                    "loop of their own. Use the asynchronous channel for both, or two processes, or the "
                    "transport `fast` (MICRO_TRANSPORT=fast), which works in any number of loops"
                )
        use = GrpcUse(what, loop)
        _uses.append(use)
    return use


def _in_child() -> None:
    global _lock, _sync
    _lock = threading.Lock()  # another thread may have held it
    _sync = None
    _uses.clear()


os.register_at_fork(after_in_child=_in_child)


def _named(what: str, loop: asyncio.AbstractEventLoop) -> str:
    return f"{what} by a synchronous client" if loop is _sync else what
