"""Whether an annotation fits a proto's message type. In doubt, it does."""

from __future__ import annotations

import types
import typing
from collections.abc import AsyncIterable, Awaitable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from google.protobuf.message import Message

__all__ = ["UNKNOWN", "is_awaitable", "is_stream", "message_fits", "resolve", "show", "stream_fits"]


class _Unknown:
    def __repr__(self) -> str:
        return "unknown"


UNKNOWN: Any = _Unknown()
"""A missing annotation, or one whose names cannot be resolved here (`TYPE_CHECKING`)."""


def resolve(annotation: Any, namespace: Mapping[str, Any]) -> Any:
    """The type an annotation means, or `UNKNOWN`.

    Annotations are resolved one at a time, so that a name that only type checkers
    see does not hide the others.
    """

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    try:
        return typing.get_type_hints(holder, dict(namespace), include_extras=True)["it"]
    except Exception:
        return UNKNOWN  # whatever somebody wrote there, pymicro cannot judge it


def message_fits(annotation: Any, expected: type[Message]) -> bool:
    """Whether this annotation fits one message of type `expected`."""
    if annotation in (UNKNOWN, Any, object, Message, expected) or isinstance(annotation, typing.TypeVar):
        return True
    origin = get_origin(annotation)
    if origin is Annotated:
        return message_fits(get_args(annotation)[0], expected)
    if origin in (Union, types.UnionType):
        return any(message_fits(arg, expected) for arg in get_args(annotation))
    kind = origin or annotation
    return _is_protocol(kind) if isinstance(kind, type) else True


def stream_fits(annotation: Any, expected: type[Message]) -> bool:
    """Whether this annotation fits an async iterator of `expected`."""
    if annotation in (UNKNOWN, Any, object) or isinstance(annotation, typing.TypeVar):
        return True
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return stream_fits(args[0], expected)
    if origin in (Union, types.UnionType):
        return any(stream_fits(arg, expected) for arg in args)
    kind = origin or annotation
    if not isinstance(kind, type) or _is_protocol(kind):
        return True
    # mypy-protobuf's _MaybeAsyncIterator is such a subclass.
    return issubclass(kind, AsyncIterable) and (not args or message_fits(args[0], expected))


def is_stream(annotation: Any) -> bool:
    """Whether a function with this return annotation certainly returns an async iterator."""
    kind = get_origin(annotation) or annotation
    return isinstance(kind, type) and issubclass(kind, AsyncIterable)


def is_awaitable(annotation: Any) -> bool:
    """Whether a function with this return annotation certainly returns an awaitable."""
    kind = get_origin(annotation) or annotation
    return isinstance(kind, type) and issubclass(kind, Awaitable)


def show(annotation: Any) -> str:
    """The annotation as a person would write it."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " | ".join(show(arg) for arg in args)
    if origin is not None and args and isinstance(origin, type):
        return f"{origin.__name__}[{', '.join(show(arg) for arg in args)}]"
    if isinstance(annotation, type):
        descriptor = getattr(annotation, "DESCRIPTOR", None)
        name: str = getattr(descriptor, "full_name", annotation.__qualname__)
        return "None" if annotation is type(None) else name
    return str(annotation)


def _is_protocol(kind: type) -> bool:
    return bool(getattr(kind, "_is_protocol", False))
