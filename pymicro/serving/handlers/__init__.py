"""Handlers: from decorated methods, or a generated servicer, to a checked table."""

from __future__ import annotations

from pymicro.serving.handlers.mark import handler, idempotent
from pymicro.serving.handlers.servicers import adopt, adopt_method
from pymicro.serving.handlers.table import build
from pymicro.serving.handlers.types import HandlerTable, Method, Rpc, Style

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
]
