"""Plug-ins by name, through entry points: our own and those of others alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from pymicro.base.errors import PluginError
from pymicro.base.printable import excerpt
from pymicro.base.suggest import did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["BALANCERS", "REGISTRIES", "SELECTORS", "known", "load"]

REGISTRIES = "pymicro.registries"
SELECTORS = "pymicro.selectors"
BALANCERS = "pymicro.balancers"

_NOUNS = {REGISTRIES: "registry", SELECTORS: "selector", BALANCERS: "balancer"}


@cache
def _found(group: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # a quarter of the time that importing a client takes

    # Somebody else's plug-in must not replace a built-in one by taking its name: the
    # built-in comes last and wins.
    found = sorted(entry_points(group=group), key=lambda point: point.value.startswith("pymicro."))
    return {point.name: point for point in found}


def known(group: str) -> list[str]:
    """Names of the installed plug-ins of an entry-point group, sorted."""
    return sorted(_found(group))


def load(group: str, name: str) -> Callable[..., Any]:
    """The factory of a plug-in, imported now.

    Args:
        group: `REGISTRIES`, `SELECTORS` or `BALANCERS`.
        name: The entry point's name.

    Raises:
        PluginError: There is no such plug-in (the text lists the known ones), or its import failed.
    """
    noun = _NOUNS.get(group, group)
    points = _found(group)
    if name not in points:
        names = known(group)
        listing = ", ".join(names) or "none: is pymicro-grpc installed?"
        raise PluginError(f"unknown {noun} {excerpt(name)} (known: {listing}){did_you_mean(name, names)}")
    point = points[name]
    try:
        factory = point.load()
    except PluginError:
        raise  # its text says what is missing
    except Exception as exc:
        origin = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
        raise PluginError(
            f"{noun} {excerpt(name)} ({point.value}{origin}) failed to load: {type(exc).__name__}: {exc}"
        ) from exc
    if not callable(factory):
        raise PluginError(
            f"{noun} {excerpt(name)} ({point.value}) is no class or function but {excerpt(factory)}"
        )
    return factory  # type: ignore[no-any-return]
