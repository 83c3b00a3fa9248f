"""This process's logging as a program has it that did not set it up yet."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def bare_logging() -> Iterator[logging.Logger]:
    """The root logger without handlers, pytest's own too (those come after fixtures)."""
    root, ours = logging.getLogger(), logging.getLogger("pymicro")
    saved = root.handlers[:], root.level, ours.level
    root.handlers[:] = []
    try:
        yield root
    finally:
        root.handlers[:], _, _ = saved
        root.setLevel(saved[1])
        ours.setLevel(saved[2])
