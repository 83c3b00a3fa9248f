"""What kind of function a handler is; looked at once, never per call."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pymicro.serving.handlers.annotations import UNKNOWN, is_awaitable, is_stream, resolve

__all__ = ["FunctionKind", "Inspected", "inspect_handler", "place_of_class", "place_of_function"]


class FunctionKind(Enum):
    """What calling the function gives."""

    COROUTINE = "a coroutine function (async def)"
    STREAM = "an async generator function (async def with yield)"
    FUNCTION = "a plain function (def)"
    GENERATOR = "a plain generator function (def with yield)"


@dataclass(frozen=True, slots=True)
class Inspected:
    """A handler's signature.

    Attributes:
        arity: 1 for the request only, 2 for request and context, None for anything else.
        parameters: The signature as written, for messages.
        request: Annotation of the first parameter, or `UNKNOWN`.
        response: Annotation of the return value, or `UNKNOWN`.
    """

    kind: FunctionKind
    arity: int | None
    parameters: str
    request: Any
    response: Any
    where: str


def inspect_handler(function: Callable[..., Any]) -> Inspected:
    """Inspect a bound handler, through partials and through decorators that used functools.wraps."""
    inner = _innermost(function)
    signature = _signature(function)
    parameters = list(signature.parameters.values()) if signature else []
    namespace = getattr(inner, "__globals__", {})
    request = resolve(parameters[0].annotation, namespace) if parameters else UNKNOWN
    response = resolve(signature.return_annotation, namespace) if signature else UNKNOWN
    if parameters and parameters[0].annotation is inspect.Parameter.empty:
        request = UNKNOWN
    if signature and signature.return_annotation is inspect.Signature.empty:
        response = UNKNOWN
    return Inspected(
        kind=_kind(function, response),
        arity=_arity(parameters) if signature else 2,
        parameters=_bare(signature) if signature else "(?)",
        request=request,
        response=response,
        where=place_of_function(function),
    )


def place_of_function(function: Callable[..., Any]) -> str:
    """`file.py:12`, relative to the working directory if the file is inside it."""
    code = getattr(_innermost(function), "__code__", None)
    return _place(code.co_filename, code.co_firstlineno) if code else repr(function)


def place_of_class(cls: type) -> str:
    """`file.py:12` of a class; only its file or its bare name if there is no source."""
    found = _sources.get(cls)
    if found is None:
        try:
            found = inspect.getsourcefile(cls) or "?", inspect.getsourcelines(cls)[1]
        # No source; or Python 3.11 stumbles while it parses that (SystemError, if garbage writes a log line).
        except Exception:
            module = sys.modules.get(cls.__module__)
            found = getattr(module, "__file__", None) or "", None
        _sources[cls] = found
    file, line = found
    return _place(file, line) if file else f"{cls.__module__}.{cls.__qualname__}"


# File and line of a class. To find the line, all of the file is parsed.
_sources: weakref.WeakKeyDictionary[type, tuple[str, int | None]] = weakref.WeakKeyDictionary()


def _place(file: str, line: int | None) -> str:
    relative = os.path.relpath(file) if os.path.isabs(file) else file
    shown = file if relative.startswith(os.pardir) else relative
    return shown if line is None else f"{shown}:{line}"


def _layers(function: Callable[..., Any]) -> list[Any]:
    """The function and what its partials, bindings and decorators wrap, outermost first."""
    layers: list[Any] = [function]
    while len(layers) < 100:  # a decorator may have tied __wrapped__ in a circle
        outer = layers[-1]
        inner: Any
        if isinstance(outer, functools.partial):
            inner = outer.func
        elif inspect.ismethod(outer):
            inner = outer.__func__
        else:
            inner = getattr(outer, "__wrapped__", None)
        if inner is None:
            break
        layers.append(inner)
    return layers


def _innermost(function: Callable[..., Any]) -> Any:
    return _layers(function)[-1]


def _kind(function: Callable[..., Any], response: Any) -> FunctionKind:
    # The outermost layer that is more than a plain function decides: an async wrapper makes a
    # coroutine function of whatever it wraps; a plain wrapper returns what the wrapped function
    # returns.
    for layer in _layers(function):
        if inspect.iscoroutinefunction(layer):
            return FunctionKind.COROUTINE
        if inspect.isasyncgenfunction(layer):
            return FunctionKind.STREAM
        if inspect.isgeneratorfunction(layer):
            return FunctionKind.GENERATOR
    if is_stream(response):
        return FunctionKind.STREAM
    return FunctionKind.COROUTINE if is_awaitable(response) else FunctionKind.FUNCTION


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        if sys.version_info >= (3, 14):
            from annotationlib import Format

            return inspect.signature(function, annotation_format=Format.FORWARDREF)
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None  # it is written in C and has no signature; we call it as grpc does, with two


def _bare(signature: inspect.Signature) -> str:
    """The signature without annotations."""
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(bare))


def _arity(parameters: list[inspect.Parameter]) -> int | None:
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        return None
    if len(positional) == 0 or required > 2:
        return None  # *args alone does not say whether the context is wanted
    if required == 2:
        return 2
    # An optional second parameter gets the context only if its name says so.
    optional = len(positional) >= 2 and positional[1].name in ("context", "ctx", "call", "_context")
    return 2 if optional else 1
