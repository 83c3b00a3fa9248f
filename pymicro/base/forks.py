"""gRPC does not live through a fork: whoever uses it in a forked child is told at once.

In the child grpc-core's threads are missing. Calls would end at their deadlines, and the child
of a process that has closed all its channels is ended by a segmentation fault.
"""

from __future__ import annotations

import os

from pymicro.base.errors import PymicroError

__all__ = ["refuse_after_fork", "use_grpc"]

_used = False
_forked = False


def use_grpc() -> None:
    """Call this before gRPC is used: a fork from now on makes a process that cannot use it.

    Raises:
        PymicroError: This process was made by such a fork.
    """
    global _used
    refuse_after_fork()
    _used = True


def refuse_after_fork() -> None:
    """Raise PymicroError if this process was forked after gRPC was used."""
    if _forked:
        raise PymicroError(
            "this process was forked after gRPC was used, and in it gRPC cannot work: use multiprocessing's "
            "start method `spawn` or `forkserver`, or fork before the first call and the first server"
        )


def _in_child() -> None:
    global _forked
    _forked = _used


os.register_at_fork(after_in_child=_in_child)
