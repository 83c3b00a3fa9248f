"""One rpc method as a stub asks for it, and what a channel was told about methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pymicro.balancing.balancer import CallInfo
from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt
from pymicro.rpc.idempotent import method_in_pool, proto_says_idempotent
from pymicro.rpc.status import Internal
from pymicro.rpc.wire.shape import Shape

__all__ = ["Marks", "Method"]


class Method:
    """A method as a stub asks a channel for it; compared by identity.

    One exists for each method, however many stubs there are, so that a node
    channel makes a `shared` method's multicallable only once. Services with the same
    proto share it too, so it holds nothing that a peer said.
    """

    __slots__ = (
        "_deserializer",
        "_idempotent_here",
        "_serializer",
        "info",
        "path",
        "registered",
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
        self.info = CallInfo(method, streams=shape is not Shape.UNARY_UNARY)
        self.shape = shape
        self.registered = registered
        self._serializer = request_serializer or _as_it_is
        self._deserializer = response_deserializer or _as_it_is
        self._idempotent_here: bool | None = None

    @property
    def idempotent(self) -> bool:
        """Whether the method's proto says that it may run twice."""
        if self._idempotent_here is None:
            self._idempotent_here = proto_says_idempotent(self.path)
        return self._idempotent_here

    def serialize(self, request: Any) -> bytes:
        """The request as bytes.

        Raises:
            TypeError: It cannot be serialized. (grpc.aio logs that, and sends an empty message.)
        """
        try:
            data = self._serializer(request)
        except Exception as exc:
            raise self._wrong(request, exc) from exc
        if isinstance(data, bytes):
            return data
        raise self._wrong(request, f"its serializer returned {_a(data)}, and not bytes")

    def _wrong(self, request: Any, why: object) -> TypeError:
        wanted = self._type_name("input_type")
        takes = f" takes {wanted}" if wanted else "'s request must be serialized"
        # The value itself may be a secret.
        return TypeError(f"{self.path}{takes}, and was given {_a(request)}, which cannot be sent: {why}")

    def parse(self, data: bytes | None) -> Any:
        """The response in these bytes.

        Raises:
            Internal: They cannot be read, or there is no response. (grpc.aio gives None.)
        """
        if data is None:
            name = self._type_name("output_type") or "response"
            raise Internal(f"{self.path} ended OK, but without its {name}", from_peer=False)
        try:
            return self._deserializer(data)
        except Exception as exc:
            name = self._type_name("output_type")
            raise Internal(
                f"a response of {self.path} with {len(data)} bytes cannot be read"
                f"{' as ' + name if name else ''}: {type(exc).__name__}: {exc}",
                from_peer=False,
            ) from exc

    def _type_name(self, side: str) -> str:
        found = method_in_pool(self.path)
        return getattr(found, side).full_name if found is not None else ""

    def renamed(self, method: str) -> Method:
        """The same method with another path; for one call, so it is not shared."""
        return Method(self.shape, method, self._serializer, self._deserializer, False, shared=False)


def _as_it_is(message: Any) -> Any:
    return message


def _a(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


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
                    f"idempotent= has {excerpt(name)}, which names no method: "
                    "give '/package.Service/Method', or 'Method' for all services"
                )
            if service:
                paths.add(f"/{service}/{method}")
            else:
                methods.add(method)
        self._paths, self._methods = frozenset(paths), frozenset(methods)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and (path in self._paths or path.rpartition("/")[2] in self._methods)
