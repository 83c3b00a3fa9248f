"""pymicro: gRPC services in Python that find and balance over live nodes by themselves.

Names are loaded when they are first used, so that `import pymicro` costs little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pymicro._version import __version__

if TYPE_CHECKING:
    from pymicro.base.errors import (
        ConfigError,
        HandlerMismatch,
        HandlersError,
        NoNode,
        PluginError,
        PymicroError,
        RegistryError,
        StartError,
    )
    from pymicro.client import Client
    from pymicro.discovery.registries.memory import MemoryRegistry
    from pymicro.nodes.node import Endpoint, Node, NodeSet, Value
    from pymicro.presets import kubernetes_service
    from pymicro.rpc.scope import detached
    from pymicro.rpc.status import (
        Aborted,
        AlreadyExists,
        Cancelled,
        DataLoss,
        DeadlineExceeded,
        FailedPrecondition,
        Internal,
        InvalidArgument,
        NotFound,
        OutOfRange,
        PermissionDenied,
        ResourceExhausted,
        RpcError,
        Unauthenticated,
        Unavailable,
        Unimplemented,
        Unknown,
    )
    from pymicro.service import Service
    from pymicro.serving.call.context import CallContext, current
    from pymicro.serving.handlers import handler, idempotent
    from pymicro.settings.config import Config

_HOMES = {
    "pymicro.settings.config": ["Config"],
    "pymicro.rpc.scope": ["detached"],
    "pymicro.base.errors": [
        "ConfigError",
        "HandlerMismatch",
        "HandlersError",
        "NoNode",
        "PluginError",
        "PymicroError",
        "RegistryError",
        "StartError",
    ],
    "pymicro.serving.handlers": ["handler", "idempotent"],
    "pymicro.nodes.node": ["Endpoint", "Node", "NodeSet", "Value"],
    "pymicro.presets": ["kubernetes_service"],
    "pymicro.discovery.registries.memory": ["MemoryRegistry"],
    "pymicro.serving.call.context": ["CallContext", "current"],
    "pymicro.service": ["Service"],
    "pymicro.client": ["Client"],
    "pymicro.rpc.status": [
        "Aborted",
        "AlreadyExists",
        "Cancelled",
        "DataLoss",
        "DeadlineExceeded",
        "FailedPrecondition",
        "Internal",
        "InvalidArgument",
        "NotFound",
        "OutOfRange",
        "PermissionDenied",
        "ResourceExhausted",
        "RpcError",
        "Unauthenticated",
        "Unavailable",
        "Unimplemented",
        "Unknown",
    ],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: PLE0604, RUF100
    "Aborted",
    "AlreadyExists",
    "CallContext",
    "Cancelled",
    "Client",
    "Config",
    "ConfigError",
    "DataLoss",
    "DeadlineExceeded",
    "Endpoint",
    "FailedPrecondition",
    "HandlerMismatch",
    "HandlersError",
    "Internal",
    "InvalidArgument",
    "MemoryRegistry",
    "NoNode",
    "Node",
    "NodeSet",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "PluginError",
    "PymicroError",
    "RegistryError",
    "ResourceExhausted",
    "RpcError",
    "Service",
    "StartError",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "Value",
    "__version__",
    "current",
    "detached",
    "handler",
    "idempotent",
    "kubernetes_service",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
