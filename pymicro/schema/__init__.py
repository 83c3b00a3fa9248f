"""Protobuf descriptors at run time: finding methods, and messages as JSON. No grpc in here."""

from __future__ import annotations

from pymicro.schema.descriptors import Method, MethodNotFound, Schema, SchemaError, split_method
from pymicro.schema.documents import Document, Documents
from pymicro.schema.messages import JsonError, UnknownTypes, from_json, to_json

__all__ = [
    "Document",
    "Documents",
    "JsonError",
    "Method",
    "MethodNotFound",
    "Schema",
    "SchemaError",
    "UnknownTypes",
    "from_json",
    "split_method",
    "to_json",
]
