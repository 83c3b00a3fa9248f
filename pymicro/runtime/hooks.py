"""Functions of the user's that a service calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["call_hook", "run_hook"]


def call_hook(function: Callable[..., Any], service: object) -> Any:
    """Call it with the service if it takes an argument."""
    try:
        inspect.signature(function).bind(service)
    except TypeError:
        return function()
    return function(service)


async def run_hook(function: Callable[..., Any], service: object) -> None:
    """Call it, and await it if it is a coroutine function."""
    result = call_hook(function, service)
    if inspect.isawaitable(result):
        await result
