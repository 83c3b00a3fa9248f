"""Names of a module that go away: they work and warn until the version in which they are gone.

`docs/stability.md` promises two minor versions between the warning and the end.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

__all__ = ["Deprecated", "deprecated"]


@dataclass(frozen=True, slots=True)
class Deprecated:
    """What stands behind a name that goes away.

    Attributes:
        value: Where the value is, `pymicro.nodes.node:Node`.
        instead: What to write now, for the warning.
        gone: The minor version in which the name no longer exists, `0.4`.
    """

    value: str
    instead: str
    gone: str


def deprecated(module: str, name: str, table: Mapping[str, Deprecated]) -> Any:
    """The value of `name`, for a module's `__getattr__`; whoever asks for it is warned.

    Raises:
        AttributeError: The name is not in `table` either.
    """
    found = table.get(name)
    if found is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    # 3: neither this function nor the module's `__getattr__`, but the line that asks.
    warnings.warn(
        f"{module}.{name} goes away in pymicro {found.gone}: use {found.instead}",
        DeprecationWarning,
        stacklevel=3,
    )
    home, _, attribute = found.value.partition(":")
    return getattr(import_module(home), attribute)
