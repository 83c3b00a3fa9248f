"""Handlers: from decorated methods, or a generated servicer, to a checked table."""

from __future__ import annotations

from pymicro.handlers.mark import handler, idempotent
from pymicro.handlers.servicers import adopt, adopt_method, method_handlers
from pymicro.handlers.table import build
from pymicro.handlers.types import HandlerTable, Method, Rpc, Style

__all__ = [
    "HandlerTable",
    "Method",
    "Rpc",
    "Style",
    "adopt",
    "adopt_method",
    "build",
    "handler",
    "idempotent",
    "method_handlers",
]
