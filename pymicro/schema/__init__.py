"""Protobuf descriptors at run time: finding methods, messages as JSON, and proto source. No grpc in here."""

from __future__ import annotations

from pymicro.schema.descriptors import Method, MethodNotFound, Schema, SchemaError, split_method
from pymicro.schema.documents import Document, Documents
from pymicro.schema.messages import JsonError, UnknownTypes, from_json, to_json
from pymicro.schema.symbols import Symbol, SymbolNotFound, Symbols
from pymicro.schema.text import file_text, symbol_text

__all__ = [
    "Document",
    "Documents",
    "JsonError",
    "Method",
    "MethodNotFound",
    "Schema",
    "SchemaError",
    "Symbol",
    "SymbolNotFound",
    "Symbols",
    "UnknownTypes",
    "file_text",
    "from_json",
    "split_method",
    "symbol_text",
    "to_json",
]
