"""pymicro: gRPC services in Python that find and balance over live nodes by themselves.

Names are loaded when they are first used, so that `import pymicro` costs little.
`docs/stability.md` says which names stay, and for how long.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pymicro._version import __version__
from pymicro.base.deprecated import Deprecated, deprecated

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
    from pymicro.calling.call.tokens import api_key, bearer_token
    from pymicro.calling.channel import Channel
    from pymicro.client import Client
    from pymicro.discovery.registries.memory import MemoryRegistry
    from pymicro.identity.accepted import api_keys, bearer_jwt, kubernetes_jwt
    from pymicro.identity.caller import KnownCaller
    from pymicro.nodes.node import Endpoint, Node, NodeSet, Value
    from pymicro.presets import kubernetes_service
    from pymicro.rpc.interceptors import InterceptedCall, Proceed
    from pymicro.rpc.scope import NoCall, detached
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
    from pymicro.rpc.wire.shape import Shape
    from pymicro.service import Service
    from pymicro.serving.call.context import CallContext, current
    from pymicro.serving.handlers import handler, idempotent
    from pymicro.settings.config import Config

_HOMES = {
    "pymicro.settings.config": ["Config"],
    "pymicro.calling.call.tokens": ["api_key", "bearer_token"],
    "pymicro.calling.channel": ["Channel"],
    "pymicro.rpc.interceptors": ["InterceptedCall", "Proceed"],
    "pymicro.rpc.scope": ["NoCall", "detached"],
    "pymicro.rpc.wire.shape": ["Shape"],
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
    "pymicro.identity.accepted": ["api_keys", "bearer_jwt", "kubernetes_jwt"],
    "pymicro.identity.caller": ["KnownCaller"],
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

# Names that go away. A row stays for two minor versions (docs/stability.md).
_GOING: dict[str, Deprecated] = {}

__all__ = [  # noqa: PLE0604, RUF100
    "Aborted",
    "AlreadyExists",
    "CallContext",
    "Cancelled",
    "Channel",
    "Client",
    "Config",
    "ConfigError",
    "DataLoss",
    "DeadlineExceeded",
    "Endpoint",
    "FailedPrecondition",
    "HandlerMismatch",
    "HandlersError",
    "InterceptedCall",
    "Internal",
    "InvalidArgument",
    "KnownCaller",
    "MemoryRegistry",
    "NoCall",
    "NoNode",
    "Node",
    "NodeSet",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "PluginError",
    "Proceed",
    "PymicroError",
    "RegistryError",
    "ResourceExhausted",
    "RpcError",
    "Service",
    "Shape",
    "StartError",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "Value",
    "__version__",
    "api_key",
    "api_keys",
    "bearer_jwt",
    "bearer_token",
    "current",
    "detached",
    "handler",
    "idempotent",
    "kubernetes_jwt",
    "kubernetes_service",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        if name == "sync":  # so that `import pymicro` is enough for `pymicro.sync.Client`
            return import_module("pymicro.sync")
        return deprecated(__name__, name, _GOING)
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
