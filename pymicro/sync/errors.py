"""pymicro's errors as code written for grpc's synchronous channels catches them.

`grpc` raises the call that has ended, as an exception. So these are `grpc.RpcError`, `grpc.Call`
and `grpc.Future`, and pymicro's own classes besides: `except pymicro.NotFound` works as well.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from pymicro.rpc.status import RpcError
from pymicro.serving.transport import Metadatum

if TYPE_CHECKING:
    _Future = grpc.Future[Any]
else:
    _Future = grpc.Future

__all__ = ["pairs_of", "synchronous"]


class _Ended(grpc.Call, _Future):
    """What an error offers as a call: it has ended."""

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float | None:  # type: ignore[override] # grpc's stub forgets calls without a deadline
        return None

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> NoReturn:
        assert isinstance(self, BaseException)
        raise self

    def exception(self, timeout: float | None = None) -> Any:
        return self

    def traceback(self, timeout: float | None = None) -> Any:
        assert isinstance(self, BaseException)
        return self.__traceback__

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        fn(self)


def _made(kind: type[RpcError]) -> type[RpcError]:
    def initial_metadata(self: Any) -> tuple[Metadatum, ...]:
        return pairs_of(kind.initial_metadata(self))

    def trailing_metadata(self: Any) -> tuple[Metadatum, ...]:
        return pairs_of(kind.trailing_metadata(self))

    def reduced(self: Any) -> tuple[Any, ...]:
        """In another process it is pymicro's plain error."""
        rebuild, (_, details, state) = kind.__reduce__(self)
        return rebuild, (kind, details, state)

    def fill(body: dict[str, Any]) -> None:
        body.update(
            __doc__=kind.__doc__,
            __module__=kind.__module__,
            __qualname__=kind.__qualname__,
            __reduce__=reduced,
            initial_metadata=initial_metadata,
            trailing_metadata=trailing_metadata,
        )

    return types.new_class(kind.__name__, (kind, _Ended), exec_body=fill)


_kinds: dict[type[RpcError], type[RpcError]] = {}


def synchronous(error: RpcError) -> RpcError:
    """The same error, as grpc's synchronous channels raise it."""
    own = type(error)
    kind = _kinds.get(own)
    if kind is None:
        kind = _kinds[own] = _made(own)
    # Not by its `__init__`: a program's own subclass may have another one.
    made: RpcError = kind.__new__(kind, *error.args)
    made.__dict__.update(error.__dict__)
    made.__cause__, made.__context__ = error.__cause__, error.__context__
    return made


def pairs_of(metadata: Any) -> tuple[Metadatum, ...]:
    """Metadata as grpc's synchronous channels give it: a tuple of pairs with names."""
    return tuple(Metadatum(key, value) for key, value in metadata or ())
