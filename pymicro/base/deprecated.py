"""Deprecated names of a module: they work and warn until the version that removes them.

`docs/stability.md` promises two minor versions between the warning and the end.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pymicro.base.printable import excerpt

__all__ = ["Deprecated", "deprecated"]


@dataclass(frozen=True, slots=True)
class Deprecated:
    """The value behind a deprecated name.

    Attributes:
        value: The place of the value, `pymicro.nodes.node:Node`.
        instead: The name to use now, for the warning.
        gone: The minor version that removes the name, `0.4`.
    """

    value: str
    instead: str
    gone: str


def deprecated(module: str, name: str, table: Mapping[str, Deprecated]) -> Any:
    """The value of `name`, for a module's `__getattr__`; it warns the caller.

    Raises:
        AttributeError: The name is not in `table` either.
    """
    found = table.get(name)
    if found is None:
        raise AttributeError(f"module {excerpt(module)} has no attribute {excerpt(name)}")
    # 3 skips this function and the module's `__getattr__`, so that the warning names the caller's line.
    warnings.warn(
        f"{module}.{name} goes away in pymicro {found.gone}: use {found.instead}",
        DeprecationWarning,
        stacklevel=3,
    )
    home, _, attribute = found.value.partition(":")
    return getattr(import_module(home), attribute)
