"""Whether a method's proto says that it may run twice."""

from __future__ import annotations

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

__all__ = ["method_in_pool", "proto_says_idempotent", "says_idempotent"]

# "Safe implies idempotent" (descriptor.proto, MethodOptions.IdempotencyLevel).
_MAY_RUN_TWICE = (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)


def says_idempotent(method: MethodDescriptor | None) -> bool:
    """Whether the proto says with `idempotency_level` that the method may run twice."""
    return method is not None and method.GetOptions().idempotency_level in _MAY_RUN_TWICE


def proto_says_idempotent(path: str) -> bool:
    """Whether the proto of `/package.Service/Method` sets `idempotency_level` to one of these.

    The stub's module has put its descriptors into the default pool; a method that
    is not there is not marked.
    """
    return says_idempotent(method_in_pool(path))


def method_in_pool(path: str) -> MethodDescriptor | None:
    """What the default pool has of `/package.Service/Method`; None if it does not know it."""
    try:
        found: MethodDescriptor = descriptor_pool.Default().FindMethodByName(
            path.lstrip("/").replace("/", ".")
        )
    except KeyError:
        return None
    return found
