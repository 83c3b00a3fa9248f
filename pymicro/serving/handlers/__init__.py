"""Handlers: from decorated methods, or a generated servicer, to a checked table."""

from __future__ import annotations

from pymicro.serving.handlers.mark import handler, idempotent
from pymicro.serving.handlers.servicers import adopt, adopt_handler
from pymicro.serving.handlers.table import build
from pymicro.serving.handlers.types import HandlerTable, Rpc, RpcHandler, Style

__all__ = [
    "HandlerTable",
    "Rpc",
    "RpcHandler",
    "Style",
    "adopt",
    "adopt_handler",
    "build",
    "handler",
    "idempotent",
]
