"""The event loop that the setting `loop` names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pymicro.base.errors import ConfigError
from pymicro.base.streams import fill_standard_streams

__all__ = ["loop_factory"]


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loop; None for asyncio's own.

    Args:
        name: `uvloop`, `asyncio`, or `auto` for uvloop where it is installed.

    Raises:
        ConfigError: uvloop was asked for by name and cannot be imported.
    """
    if name == "asyncio":
        return None
    try:
        import uvloop  # noqa: PLC0415, RUF100 - absent on Windows
    except ImportError as exc:
        if name == "uvloop":
            raise ConfigError(f"loop: uvloop cannot be imported: {exc}") from exc
        return None
    fill_standard_streams()
    return uvloop.new_event_loop
