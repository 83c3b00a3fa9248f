"""`@handler`: which methods of a class answer calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, overload

__all__ = ["Mark", "handler", "marked_names"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__pymicro_handler__"


@dataclass(frozen=True, slots=True)
class Mark:
    """What `@handler` leaves on a method.

    Attributes:
        rpc: The rpc's exact name if the decorator was given one.
    """

    rpc: str | None


@overload
def handler(target: F, /) -> F: ...
@overload
def handler(target: str | None = None, /) -> Callable[[F], F]: ...
def handler(target: Any = None, /) -> Any:
    """Mark a method as the handler of an rpc.

    The rpc is found by the method's name with case and underscores dropped
    (`say_hello` answers `SayHello`); `@handler("Import")` names it instead.

        class Greeter:
            @handler
            async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply: ...

    The method takes the request (an async iterator of requests where the proto
    says `stream`) and, if it has a second parameter, the `CallContext`.
    """
    if target is None or isinstance(target, str):
        rpc = target

        def mark(function: F) -> F:
            return _mark(function, rpc)

        return mark
    return _mark(target, None)


def _mark(function: F, rpc: str | None) -> F:
    if isinstance(function, type) or not callable(function):
        raise TypeError(f"@handler marks methods, not {function!r}; it comes last, above other decorators")
    setattr(function, _MARK, Mark(rpc))
    return function


def marked_names(cls: type) -> Iterator[tuple[str, Mark]]:
    """The marked attributes of a class in the order of definition, inherited ones first.

    An override of a marked method is a handler too, marked again or not.
    """
    seen: dict[str, Mark] = {}
    for base in reversed(cls.__mro__):
        for name, raw in base.__dict__.items():
            mark = _mark_of(raw)
            if mark is not None:
                seen[name] = mark
    for name, mark in seen.items():
        # A subclass may have replaced it by something else: None, to take a handler away.
        if callable(getattr(cls, name, None)):
            yield name, mark


def _mark_of(raw: Any) -> Mark | None:
    # From its own __dict__, because objects with a generous __getattr__ claim to have anything.
    for target in (raw, getattr(raw, "__func__", None)):
        found = getattr(target, "__dict__", {}).get(_MARK)
        if isinstance(found, Mark):
            return found
    return None
