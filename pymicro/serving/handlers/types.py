"""What a checked handler is: everything dispatch needs, found out once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from pymicro.rpc.wire.shape import Shape

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message

__all__ = ["HandlerTable", "Rpc", "RpcHandler", "Style"]


class Style(Enum):
    """How a handler is run."""

    COROUTINE = "awaited for its one response"
    THREAD = "run in a thread for its one response"
    STREAM = "iterated for its responses"
    WRITER = "awaited while it writes its responses to the context"
    UNIMPLEMENTED = "not there: a generated servicer's own method"


@dataclass(frozen=True, slots=True)
class Rpc:
    """The facts of one method, as the proto says them.

    Attributes:
        path: `/package.Service/Method`.
        request_type: None if a foreign handler brought serializers of its own.
        response_type: None likewise; then a response's type is not checked.
        descriptor: None if no descriptor pool knows the rpc.
    """

    path: str
    shape: Shape
    request_type: type[Message] | None = None
    response_type: type[Message] | None = None
    descriptor: MethodDescriptor | None = None


@dataclass(frozen=True, slots=True)
class RpcHandler:
    """One rpc and the function that answers it.

    Attributes:
        function: Bound to its object; takes the request, and the context if `takes_context`.
        where: `file.py:12` of the function.
        label: `Greeter.say_hello`, for people.
        idempotent: Whether it may run twice for one call: the proto says so, or `@idempotent`.
        slow_from: The bytes of a request from which `deserialize` would hold the event loop; None if
            it never does.
        allow: Who may call it; None if its handler does not say.
    """

    rpc: Rpc
    style: Style
    function: Callable[..., Any]
    takes_context: bool
    where: str
    label: str
    deserialize: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]
    idempotent: bool = False
    slow_from: int | None = None
    allow: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class HandlerTable:
    """The handlers of one proto service.

    Attributes:
        service: Its full name, `package.Service`.
        where: Where the class of the object that has the handlers was written.
        descriptor: None if no descriptor pool knows the service.
    """

    service: str
    where: str
    methods: tuple[RpcHandler, ...]
    descriptor: ServiceDescriptor | None = None
