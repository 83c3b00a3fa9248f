"""Protobuf descriptors at run time: finding methods, messages as JSON, and proto source. No grpc in here."""

from __future__ import annotations

from pymicro.rpc.schema.descriptors import MethodNotFound, ProtoMethod, Schema, SchemaError, split_method
from pymicro.rpc.schema.documents import Document, Documents
from pymicro.rpc.schema.messages import JsonError, UnknownTypes, from_json, to_json
from pymicro.rpc.schema.raw import to_raw_json
from pymicro.rpc.schema.symbols import Symbol, SymbolNotFound, Symbols
from pymicro.rpc.schema.text import file_text, symbol_text

__all__ = [
    "Document",
    "Documents",
    "JsonError",
    "MethodNotFound",
    "ProtoMethod",
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
    "to_raw_json",
]
