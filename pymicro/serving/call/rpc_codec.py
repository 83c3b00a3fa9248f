"""The facts of one served method that never change, and the last check of its responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymicro.base.errors import PymicroError
from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.rpc.status import Internal, InvalidArgument, ResourceExhausted, RpcError
from pymicro.serving.call.threads import HandlerThreads
from pymicro.serving.gomicro.codecs import Misfit, NotJson
from pymicro.serving.handlers.types import RpcHandler

__all__ = ["BadResponse", "RpcCodec"]

log = logger("pymicro.server")


class BadResponse(PymicroError):
    """A handler's answer does not fit the proto. For the log; never sent."""


class RpcCodec:
    """One method of one server.

    Attributes:
        raw: Whether dispatch takes and gives bytes, as a transport does. Foreign interceptors
            want messages instead.
        encode: Checks a response and returns what dispatch gives.
        aside: Parses a request in place of `parse`, where that may take long; else None.

    Args:
        reading: The thread in which long requests are parsed.
    """

    __slots__ = ("_reading", "aside", "encode", "handler", "path", "raw", "shape")

    def __init__(
        self, handler: RpcHandler, *, raw: bool, limit: float, reading: HandlerThreads | None = None
    ) -> None:
        self.handler = handler
        self.path = handler.rpc.path
        self.shape = handler.rpc.shape
        self.raw = raw
        self.encode = _encoder(handler, raw, limit)
        self._reading = reading
        self.aside = self._parse_aside if reading is not None and handler.slow_from is not None else None

    def parse(self, raw: bytes) -> Any:
        """Parse a request.

        Raises:
            RpcError: The status to end with.
        """
        try:
            return self.handler.deserialize(raw)
        except Exception as exc:
            raise self._unparsable(exc) from exc

    async def _parse_aside(self, raw: bytes) -> Any:
        assert self._reading is not None
        assert self.handler.slow_from is not None
        if len(raw) < self.handler.slow_from:
            return self.parse(raw)
        return await self._reading.run(self.parse, raw)

    def serialize(self, message: Any) -> bytes:
        """Serialize what foreign interceptors pass on; `encode` has seen the handler's own message.

        Raises:
            BadResponse: It cannot be sent.
        """
        try:
            return self.handler.serialize(message)
        except Exception as exc:
            raise BadResponse(
                f"an interceptor made a response that cannot be sent: {excerpt(exc, 1000)}"
            ) from exc

    def check(self, message: Any) -> None:
        """Refuse a response of the wrong type.

        Raises:
            BadResponse: Says which type was expected and which was found.
        """
        expected = self.handler.rpc.response_type
        if expected is not None and type(message) is not expected:
            raise BadResponse(_wrong_type(self.handler, message))

    def _unparsable(self, exc: Exception) -> RpcError:
        if isinstance(exc, Misfit):
            return InvalidArgument(str(exc))
        if isinstance(exc, NotJson):
            return Internal(str(exc))
        # INTERNAL, as statuscodes.md says for "error parsing request proto".
        kind = self.handler.rpc.request_type
        name = kind.DESCRIPTOR.full_name if kind else "what the method takes"
        log.debug("%s: a request does not parse as %s: %s", self.path, name, excerpt(exc, 1000))
        return Internal(f"the request does not parse as {name}")


def _encoder(handler: RpcHandler, raw: bool, limit: float) -> Callable[[Any], Any]:
    expected = handler.rpc.response_type
    serialize = handler.serialize

    def encode(message: Any) -> Any:
        if type(message) is not expected and expected is not None:
            raise BadResponse(_wrong_type(handler, message))
        try:
            data = serialize(message)
        except Exception as exc:
            raise BadResponse(f"the response cannot be serialized: {exc}") from exc
        if type(data) is not bytes:
            raise BadResponse(f"the serializer returned {type(data).__qualname__}, not bytes")
        if len(data) > limit:
            log.warning(
                "%s: a response of %d bytes exceeds max_sent_message_size", handler.rpc.path, len(data)
            )
            raise ResourceExhausted(
                f"the response has {len(data)} bytes, more than the server's max_sent_message_size of {limit}"
            )
        return data if raw else message

    return encode


def _wrong_type(handler: RpcHandler, message: Any) -> str:
    expected = handler.rpc.response_type
    descriptor = getattr(type(message), "DESCRIPTOR", None)
    wanted = expected.DESCRIPTOR.full_name if expected else "bytes"
    found = getattr(descriptor, "full_name", type(message).__qualname__)
    if found == wanted:
        found += " of another descriptor pool"
    return f"{handler.label} ({handler.where}) must answer {wanted}, found {found}"
