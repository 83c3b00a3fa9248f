"""One method as grpc serves it: the ordinary form, and the forms that go-micro's callers ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import grpc

from pymicro.serving.call.admission import abort_unstarted
from pymicro.serving.call.dispatch import Dispatcher
from pymicro.serving.gomicro.codecs import in_json
from pymicro.serving.handlers.types import RpcHandler

__all__ = ["GrpcHandler", "RpcForms", "Translate", "refusing"]

GrpcHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Translate = Callable[["GrpcHandler"], "GrpcHandler"]


class RpcForms:
    """A method and its handlers. All but the ordinary one are made at the first request for them.

    Args:
        translate: Turns a handler into one for go-micro's callers; None if code further out does that.

    Attributes:
        ordinary: The handler for protobuf messages and plain errors.
    """

    __slots__ = ("_dispatcher", "_handler", "_made", "_translate", "ordinary")

    def __init__(self, handler: RpcHandler, dispatcher: Dispatcher, translate: Translate | None) -> None:
        self._handler = handler
        self._dispatcher = dispatcher
        self._translate = translate
        self.ordinary = dispatcher.build(handler)
        self._made: dict[tuple[bool, bool], GrpcHandler] = {(False, False): self.ordinary}

    def handler(self, json: bool, go_micro: bool) -> GrpcHandler:
        """The method for one kind of caller.

        Args:
            json: Whether messages travel as JSON.
            go_micro: Whether errors go out as go-micro's JSON.
        """
        made = self._made.get((json, go_micro))
        if made is None:
            made = self._made[json, go_micro] = self._make(json, go_micro)
        return made

    def _make(self, json: bool, go_micro: bool) -> GrpcHandler:
        if go_micro:
            plain = self.handler(json, False)
            return self._translate(plain) if self._translate else plain
        handler = in_json(self._handler)
        if handler is None:
            return refusing(f"{self._handler.rpc.path} takes no JSON: its messages are not known here")
        return self._dispatcher.build(handler)


def refusing(text: str) -> GrpcHandler:
    """A handler that refuses calls that nothing here can serve."""

    async def refuse(requests: Any, context: Any) -> AsyncIterator[Any]:
        await abort_unstarted(context, grpc.StatusCode.UNIMPLEMENTED, text)
        yield

    return grpc.stream_stream_rpc_method_handler(refuse)
