"""A channel's interceptors, sorted for each shape of call."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import grpc.aio

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt
from pymicro.rpc.wire.shape import Shape

__all__ = ["Layer", "Layers", "foreign_method", "layers_of"]

# One interceptor of grpc.aio's classes, or neighbours of our own form, which run in one task.
Layer = Any
Layers = tuple[Layer, ...]

_FOREIGN: dict[Shape, tuple[type, str]] = {
    Shape.UNARY_UNARY: (grpc.aio.UnaryUnaryClientInterceptor, "intercept_unary_unary"),
    Shape.UNARY_STREAM: (grpc.aio.UnaryStreamClientInterceptor, "intercept_unary_stream"),
    Shape.STREAM_UNARY: (grpc.aio.StreamUnaryClientInterceptor, "intercept_stream_unary"),
    Shape.STREAM_STREAM: (grpc.aio.StreamStreamClientInterceptor, "intercept_stream_stream"),
}


def layers_of(interceptors: Sequence[Any]) -> dict[Shape, Layers] | None:
    """What runs around a call of each shape, the first one outermost; None without any.

    An interceptor of grpc.aio's classes is a layer; neighbours of our own form are one, a tuple.

    Raises:
        ConfigError: An interceptor is neither of grpc.aio's classes nor a coroutine function.
    """
    for interceptor in interceptors:
        if isinstance(interceptor, grpc.aio.ClientInterceptor):
            continue
        if not (
            inspect.iscoroutinefunction(interceptor)
            or inspect.iscoroutinefunction(getattr(type(interceptor), "__call__", None))  # noqa: B004
        ):
            raise ConfigError(
                f"{excerpt(interceptor)} is no client interceptor: neither `async def interceptor(call, "
                "proceed)` nor an object of one of grpc.aio's client interceptor classes"
            )
    if not interceptors:
        return None
    return {shape: _layers(interceptors, kind) for shape, (kind, _) in _FOREIGN.items()}


def _layers(interceptors: Sequence[Any], kind: type) -> Layers:
    layers: list[Layer] = []
    for interceptor in interceptors:
        if not isinstance(interceptor, grpc.aio.ClientInterceptor):
            if layers and isinstance(layers[-1], tuple):
                layers[-1] = (*layers[-1], interceptor)
            else:
                layers.append((interceptor,))
        elif isinstance(interceptor, kind):
            layers.append(interceptor)
    return tuple(layers)


def foreign_method(shape: Shape) -> str:
    """The method of grpc.aio's interceptors for calls of this shape."""
    return _FOREIGN[shape][1]
