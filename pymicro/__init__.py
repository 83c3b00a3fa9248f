"""pymicro: gRPC services in Python that find and balance over live nodes by themselves.

Names are loaded when they are first used, so that `import pymicro` costs little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pymicro._version import __version__

if TYPE_CHECKING:
    from pymicro.config import Config
    from pymicro.context import detached
    from pymicro.errors import (
        ConfigError,
        HandlerMismatch,
        HandlersError,
        NoNode,
        PluginError,
        PymicroError,
        RegistryError,
        StartError,
    )
    from pymicro.handlers import handler, idempotent
    from pymicro.node import Endpoint, Node, NodeSet, Value
    from pymicro.presets import kubernetes_service
    from pymicro.registry.memory import MemoryRegistry
    from pymicro.server.context import CallContext, current
    from pymicro.service import Service
    from pymicro.standalone import Client
    from pymicro.status import (
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

_HOMES = {
    "pymicro.config": ["Config"],
    "pymicro.context": ["detached"],
    "pymicro.errors": [
        "ConfigError",
        "HandlerMismatch",
        "HandlersError",
        "NoNode",
        "PluginError",
        "PymicroError",
        "RegistryError",
        "StartError",
    ],
    "pymicro.handlers": ["handler", "idempotent"],
    "pymicro.node": ["Endpoint", "Node", "NodeSet", "Value"],
    "pymicro.presets": ["kubernetes_service"],
    "pymicro.registry.memory": ["MemoryRegistry"],
    "pymicro.server.context": ["CallContext", "current"],
    "pymicro.service": ["Service"],
    "pymicro.standalone": ["Client"],
    "pymicro.status": [
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
