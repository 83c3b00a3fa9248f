"""One rpc method as a stub asks for it, and what a channel was told about methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import grpc.aio

from pymicro.balancing.balancer import CallInfo
from pymicro.base.errors import ConfigError
from pymicro.rpc.idempotent import proto_says_idempotent
from pymicro.rpc.wire.shape import Shape

__all__ = ["Marks", "Method"]


class Method:
    """A method as a stub asks a channel for it; compared by identity.

    One exists for each method, however many stubs there are, so that a node
    channel makes a `shared` method's multicallable only once. Services with the same
    proto share it too, so it holds nothing that a peer said.
    """

    __slots__ = (
        "_arguments",
        "_idempotent_here",
        "_registered",
        "info",
        "path",
        "shape",
        "shared",
    )

    def __init__(
        self,
        shape: Shape,
        method: str,
        request_serializer: Callable[..., Any] | None,
        response_deserializer: Callable[..., Any] | None,
        registered: bool,
        *,
        shared: bool,
    ) -> None:
        self.shared = shared
        self.path = method
        self.info = CallInfo(method)
        self.shape = shape
        self._arguments = (method, request_serializer, response_deserializer)
        self._registered = registered
        self._idempotent_here: bool | None = None

    @property
    def idempotent(self) -> bool:
        """Whether the method's proto says that it may run twice."""
        if self._idempotent_here is None:
            self._idempotent_here = proto_says_idempotent(self.path)
        return self._idempotent_here

    def bind(self, channel: grpc.aio.Channel) -> Callable[..., Any]:
        """The grpc.aio multicallable of this method on `channel`."""
        bound: Callable[..., Any] = getattr(channel, self.shape.value)(
            *self._arguments, _registered_method=self._registered
        )
        return bound

    def renamed(self, method: str) -> Method:
        """The same method with another path; for one call, so it is not shared."""
        _, serializer, deserializer = self._arguments
        return Method(self.shape, method, serializer, deserializer, False, shared=False)


class Marks:
    """Methods that a channel's user marked as safe to run twice.

    Args:
        names: `/package.Service/Method`, `package.Service/Method`, or `Method` alone
            for the methods of that name in every service; any number of these.

    Raises:
        ConfigError: A name cannot be a method's name.
    """

    def __init__(self, names: Iterable[str]) -> None:
        if isinstance(names, str):
            names = (names,)
        paths, methods = set(), set()
        for name in names:
            service, slash, method = name.rpartition("/") if isinstance(name, str) else ("", "", "")
            service = service.removeprefix("/")
            if not method or bool(slash) != bool(service) or "." in method:
                raise ConfigError(
                    f"idempotent= has {name!r}, which names no method: "
                    "give '/package.Service/Method', or 'Method' for all services"
                )
            if service:
                paths.add(f"/{service}/{method}")
            else:
                methods.add(method)
        self._paths, self._methods = frozenset(paths), frozenset(methods)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and (path in self._paths or path.rpartition("/")[2] in self._methods)
