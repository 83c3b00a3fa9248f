"""Errors that have nothing to do with a call's status.

`RpcError` and its sixteen subclasses are in `pymicro.rpc.status`: they are grpc errors
too, and this module must stay free of grpc.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "ConfigError",
    "HandlerMismatch",
    "HandlersError",
    "NoNode",
    "PluginError",
    "PymicroError",
    "RegistryError",
    "StartError",
]


class PymicroError(Exception):
    """The root of all errors that pymicro raises on purpose."""


class ConfigError(PymicroError):
    """A flag, an environment variable or a keyword that cannot be used.

    The message is for the person who typed it: what was given, where, and what would
    be accepted.
    """


class PluginError(ConfigError):
    """A plug-in that is unknown, lacks its dependency or fails to load."""


class StartError(PymicroError):
    """The service could not start although its configuration is sound (a taken port, say)."""


class RegistryError(PymicroError):
    """A registry could not be read or written; its last answer still stands."""


class NoNode(PymicroError):
    """A balancer has no node left to choose from."""


@dataclass(frozen=True, slots=True)
class HandlerMismatch:
    """One disagreement between a handler and its proto.

    Attributes:
        where: `path/to/file.py:12`, or the proto method if no Python line is at fault.
        what: The subject of the mismatch, such as `Greeter.say_hello`.
        expected: What the proto asks for.
        found: What the code has.
        hint: What to do, such as `did you mean SayHello?`; may be empty.
    """

    where: str
    what: str
    expected: str
    found: str
    hint: str = ""

    def __str__(self) -> str:
        lines = [
            f"{self.where}: {self.what}",
            f"    expected: {self.expected}",
            f"    found:    {self.found}",
        ]
        if self.hint:
            lines.append(f"    hint:     {self.hint}")
        return "\n".join(lines)


class HandlersError(ConfigError):
    """Every mismatch between a service's handlers and its protos, found before a port is bound."""

    def __init__(self, mismatches: Sequence[HandlerMismatch]) -> None:
        self.mismatches: tuple[HandlerMismatch, ...] = tuple(mismatches)
        count = len(self.mismatches)
        places = "one place" if count == 1 else f"{count} places"
        listing = "\n".join(str(mismatch) for mismatch in self.mismatches)
        super().__init__(f"the handlers do not fit the proto, in {places}\n{listing}")

    def __reduce__(self) -> tuple[type[HandlersError], tuple[tuple[HandlerMismatch, ...]]]:
        return type(self), (self.mismatches,)
