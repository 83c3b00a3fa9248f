"""One method as grpc serves it: for most callers, and in the forms that go-micro's ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import grpc

from pymicro.serving.call.admission import abort_unstarted
from pymicro.serving.call.dispatch import Dispatcher
from pymicro.serving.gomicro.codecs import in_json
from pymicro.serving.handlers.types import Method

__all__ = ["Around", "Handler", "Served", "refusing"]

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Around = Callable[["Handler"], "Handler"]


class Served:
    """A method and its handlers. All but the ordinary one are made when they are first asked for.

    Args:
        around: Makes of a handler one for go-micro's callers; None where that is done further out.

    Attributes:
        ordinary: In protobuf, with plain errors.
    """

    __slots__ = ("_around", "_dispatcher", "_made", "_method", "ordinary")

    def __init__(self, method: Method, dispatcher: Dispatcher, around: Around | None) -> None:
        self._method = method
        self._dispatcher = dispatcher
        self._around = around
        self.ordinary = dispatcher.build(method)
        self._made: dict[tuple[bool, bool], Handler] = {(False, False): self.ordinary}

    def handler(self, json: bool, go_micro: bool) -> Handler:
        """The method for one kind of caller.

        Args:
            json: Whether messages travel as JSON.
            go_micro: Whether errors do.
        """
        made = self._made.get((json, go_micro))
        if made is None:
            made = self._made[json, go_micro] = self._make(json, go_micro)
        return made

    def _make(self, json: bool, go_micro: bool) -> Handler:
        if go_micro:
            plain = self.handler(json, False)
            return self._around(plain) if self._around else plain
        method = in_json(self._method)
        if method is None:
            return refusing(f"{self._method.rpc.path} takes no JSON: its messages are not known here")
        return self._dispatcher.build(method)


def refusing(text: str) -> Handler:
    """What answers calls that nobody here can serve."""

    async def refuse(requests: Any, context: Any) -> AsyncIterator[Any]:
        await abort_unstarted(context, grpc.StatusCode.UNIMPLEMENTED, text)
        yield

    return grpc.stream_stream_rpc_method_handler(refuse)
