"""`@handler`: which methods of a class answer calls; `@idempotent`: which of them may run twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, overload

from pymicro.base.printable import excerpt

__all__ = ["Mark", "handler", "idempotent", "is_idempotent", "marked_names"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__pymicro_handler__"
_IDEMPOTENT = "__pymicro_idempotent__"


@dataclass(frozen=True, slots=True)
class Mark:
    """What `@handler` leaves on a method.

    Attributes:
        rpc: The rpc's exact name if the decorator was given one.
        allow: Who may call it; None if that was not said.
    """

    rpc: str | None
    allow: tuple[str, ...] | None = None


@overload
def handler(target: F, /) -> F: ...
@overload
def handler(target: str | None = None, /, *, allow: Sequence[str] | None = None) -> Callable[[F], F]: ...
def handler(target: Any = None, /, *, allow: Sequence[str] | None = None) -> Any:
    """Mark a method as the handler of an rpc.

    The rpc is found by the method's name with case and underscores dropped
    (`say_hello` answers `SayHello`); `@handler("Import")` names it instead.

        class Greeter:
            @handler
            async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply: ...

    The method takes the request (an async iterator of requests where the proto
    says `stream`) and, if it has a second parameter, the `CallContext`.

    Args:
        target: The method, or the rpc's name.
        allow: Callers that may call it, by patterns for what their certificates say
            (`spiffe://cluster.local/ns/shop/*`, `*.shop.svc`); `*` is whoever has a certificate,
            and an empty list nobody. Whoever may call the service, if None.
    """
    if isinstance(allow, str):
        raise TypeError(f"allow= is a list of callers, and not the text {excerpt(allow)}")
    callers = None if allow is None else tuple(allow)
    if target is None or isinstance(target, str):
        rpc = target

        def mark(function: F) -> F:
            return _mark(function, rpc, callers)

        return mark
    return _mark(target, None, callers)


def _mark(function: F, rpc: str | None, allow: tuple[str, ...] | None) -> F:
    _check(function, "@handler")
    setattr(function, _MARK, Mark(rpc, allow))
    return function


def idempotent(function: F, /) -> F:
    """Mark a handler that may run twice for one call: a lookup, or storing the same again.

    The server tells callers so with every answer. They then retry a call on another
    node even if nobody knows whether it ran: the node died, or the connection broke.

        class Greeter:
            @handler
            @idempotent
            async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply: ...

    It stands above or below `@handler`, and on methods of generated servicers. Unlike
    `@handler`, an override does not inherit it, since it may do something else: mark the
    override too. `idempotency_level = IDEMPOTENT` or `NO_SIDE_EFFECTS` in the proto says
    the same for every implementation.
    """
    _check(function, "@idempotent")
    # A static method is found as the function inside it, so mark both.
    for target in (function, getattr(function, "__func__", None)):
        if target is not None:
            setattr(target, _IDEMPOTENT, True)
    return function


def is_idempotent(function: Callable[..., Any]) -> bool:
    """Whether this very function, as it is bound, was marked `@idempotent`."""
    while isinstance(function, partial):
        function = function.func
    return bool(_attribute(function, _IDEMPOTENT))


def _check(function: Any, decorator: str) -> None:
    if isinstance(function, type) or not callable(function):
        raise TypeError(
            f"{decorator} marks methods, not {excerpt(function)}; it comes last, above other decorators"
        )


def marked_names(cls: type) -> Iterator[tuple[str, Mark]]:
    """The marked attributes of a class in the order of definition, inherited ones first.

    An override of a marked method is a handler too, whether it is marked again or not.
    """
    seen: dict[str, Mark] = {}
    for base in reversed(cls.__mro__):
        for name, raw in base.__dict__.items():
            mark = _mark_of(raw)
            if mark is not None:
                seen[name] = mark
    for name, mark in seen.items():
        # A subclass may have replaced the method: with None, to take a handler away.
        if callable(getattr(cls, name, None)):
            yield name, mark


def _mark_of(raw: Any) -> Mark | None:
    found = _attribute(raw, _MARK)
    return found if isinstance(found, Mark) else None


def _attribute(raw: Any, name: str) -> Any:
    # Read its own __dict__: objects with a generous __getattr__ claim to have anything.
    for target in (raw, getattr(raw, "__func__", None)):
        found = getattr(target, "__dict__", {}).get(name)
        if found is not None:
            return found
    return None
