"""Which life of a service code belongs to: tests run several lives of one service at a time."""

from __future__ import annotations

from contextvars import Context, ContextVar
from typing import Any

__all__ = ["context_apart", "life_here"]

# Set while a life starts and stops, and so in all tasks that it starts then.
life_here: ContextVar[Any] = ContextVar("pymicro_life", default=None)


def context_apart() -> Context:
    """A context for work of a life that is part of no call: it knows that life, and nothing else."""
    context = Context()
    context.run(life_here.set, life_here.get())
    return context
