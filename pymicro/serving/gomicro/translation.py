"""grpc's context for a call from go-micro: it sends errors as go-micro's JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import grpc

from pymicro.rpc.status import text_of
from pymicro.rpc.wire.gomicro import dump_error
from pymicro.rpc.wire.status import DETAILS_KEY, TEXT_LIMIT, clip, code_of, encoded_size

if TYPE_CHECKING:
    from pymicro.rpc.wire.metadata import Pair

__all__ = ["Translation"]


class Translation:
    """Stands before grpc's context, or before the one for threads, and is used like it.

    The code stays; the text becomes go-micro's JSON. Rich details are left out, because
    go-micro's later clients take them for their own and panic.

    Args:
        context: grpc's own.
        service: The name under which the service is registered.
        timeout: Seconds the call may take, in addition to grpc's deadline.
    """

    __slots__ = ("_code", "_context", "_details", "_service", "_until")

    def __init__(self, context: Any, service: str, timeout: float | None = None) -> None:
        self._context = context
        self._service = service
        self._code: Any = None
        self._details = ""
        self._until = None if timeout is None else time.monotonic() + timeout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def given_time(self) -> float | None:
        """Seconds left by grpc's deadline alone; None without one."""
        left: float | None = self._context.time_remaining()
        return left

    def time_remaining(self) -> float | None:
        """Seconds left until grpc's deadline or go-micro's timeout, whichever is earlier."""
        given = self.given_time()
        if self._until is None:
            return given
        left = max(self._until - time.monotonic(), 0.0)
        return left if given is None else min(left, given)

    def abort(self, code: Any, details: str = "", trailing_metadata: Iterable[Pair] | None = ()) -> Any:
        """As in grpc: awaited, or blocking where grpc's own blocks."""
        self._code, self._details = code, text_of(details) or self._details
        return self._context.abort(code, self._text(), _plain(trailing_metadata))

    def abort_with_status(self, status: grpc.Status) -> Any:
        """As in grpc."""
        return self.abort(status.code, status.details, status.trailing_metadata)

    def set_code(self, code: Any) -> None:
        """As in grpc."""
        self._code = code
        self._context.set_code(code)
        # Code and text may be set in either order, and grpc sends the last values.
        self._context.set_details(self._text())

    def set_details(self, details: str) -> None:
        """As in grpc."""
        self._details = text_of(details)
        self._context.set_details(self._text())

    def details(self) -> str:
        """The text as the handler set it."""
        return self._details

    def set_trailing_metadata(self, trailing_metadata: Iterable[Pair]) -> None:
        """As in grpc."""
        self._context.set_trailing_metadata(_plain(trailing_metadata))

    def _text(self) -> str:
        code = code_of(self._code)
        if code is grpc.StatusCode.OK:
            return self._details
        return _error_text(self._service, code, self._details)


def _plain(metadata: Iterable[Pair] | None) -> tuple[Pair, ...]:
    return tuple(pair for pair in metadata or () if pair[0] != DETAILS_KEY)


def _error_text(service: str, code: grpc.StatusCode, detail: str) -> str:
    """go-micro's JSON; if the whole would be too large, the detail is cut."""
    text = dump_error(service, code, detail)
    if len(text) * 3 <= TEXT_LIMIT:  # a character that is not printable takes three bytes
        return text
    frame = encoded_size(dump_error(service, code, ""))
    return dump_error(service, code, clip(detail, TEXT_LIMIT - frame, _size_in_json))


def _size_in_json(text: str) -> int:
    return encoded_size(json.dumps(text)) - 2
