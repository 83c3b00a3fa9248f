"""A mark in a process under valgrind: callgrind counts instructions from one mark to the next.

Before each call of the C function `AT` callgrind writes out what it has counted. Python reaches `AT`
through `os`, and nothing else in these processes calls it. Without valgrind a mark is one system call.
"""

from __future__ import annotations

import os

__all__ = ["AT", "mark"]

AT = "getpriority"


def mark() -> None:
    os.getpriority(os.PRIO_PROCESS, 0)
