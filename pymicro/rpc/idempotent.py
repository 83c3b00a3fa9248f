"""Whether a method's proto says that it may run twice."""

from __future__ import annotations

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

__all__ = ["proto_says_idempotent", "says_idempotent"]

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
    name = path.lstrip("/").replace("/", ".")
    try:
        return says_idempotent(descriptor_pool.Default().FindMethodByName(name))
    except KeyError:
        return False
