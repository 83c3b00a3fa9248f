"""One method as it is served: the ordinary form, and the forms that go-micro's callers ask for."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc

from pymicro.rpc.grpcio import grpc_handler
from pymicro.rpc.wire.shape import Shape
from pymicro.serving.call.admission import abort_unstarted
from pymicro.serving.call.context import Serving
from pymicro.serving.call.dispatch import Dispatcher
from pymicro.serving.call.noting import note_refused
from pymicro.serving.call.refusal import refuse_outside
from pymicro.serving.gomicro.codecs import in_json
from pymicro.serving.gomicro.translator import Translator
from pymicro.serving.handlers.types import RpcHandler
from pymicro.serving.transport import ServedMethod

__all__ = ["Found", "RpcForms", "Translate", "refusing"]

# A method; where grpc.aio's interceptors stand outside, a handler as these know it.
Found: TypeAlias = "ServedMethod | grpc.RpcMethodHandler[Any, Any]"


class Translate:
    """Turns a method into one for go-micro's callers; a handler stays, as `foreign` translates it."""

    def __init__(self, gomicro: Translator, serving: Serving) -> None:
        self._gomicro = gomicro
        self._serving = serving

    def __call__(self, path: str, found: Found) -> Found:
        """The method for calls from go-micro."""
        if not isinstance(found, ServedMethod):
            return found
        gomicro, serving, shape, run = self._gomicro, self._serving, found.shape, found.run

        async def translated(request: Any, call: Any) -> Any:
            try:
                return await gomicro.run(shape, run, request, call)
            except BaseException as exc:
                return await refuse_outside(path, "its task", gomicro.context(call), serving, exc)

        return ServedMethod(shape, translated)


class RpcForms:
    """A method and its forms. All but the ordinary one are made at the first request for them.

    Attributes:
        ordinary: The method for protobuf messages and plain errors.
    """

    __slots__ = ("_dispatcher", "_handler", "_made", "_translate", "ordinary")

    def __init__(self, handler: RpcHandler, dispatcher: Dispatcher, translate: Translate) -> None:
        self._handler = handler
        self._dispatcher = dispatcher
        self._translate = translate
        self.ordinary: Found = dispatcher.build(handler)
        self._made: dict[tuple[bool, bool], Found] = {(False, False): self.ordinary}

    def form(self, json: bool, go_micro: bool) -> Found:
        """The method for one kind of caller.

        Args:
            json: Whether messages travel as JSON.
            go_micro: Whether errors go out as go-micro's JSON.
        """
        made = self._made.get((json, go_micro))
        if made is None:
            made = self._made[json, go_micro] = self._make(json, go_micro)
        return made

    def _make(self, json: bool, go_micro: bool) -> Found:
        path = self._handler.rpc.path
        if go_micro:
            return self._translate(path, self.form(json, False))
        handler = in_json(self._handler)
        if handler is None:
            text = f"{path} takes no JSON: its messages are not known here"
            return refusing(path, text, self._dispatcher, known=True)
        return self._dispatcher.build(handler)


def refusing(path: str, text: str, dispatcher: Dispatcher, *, known: bool) -> Found:
    """A method that refuses calls that nothing here can serve.

    Args:
        known: Whether there is a method at this path, for other calls.
    """

    async def refuse(requests: Any, context: Any) -> None:
        number = grpc.StatusCode.UNIMPLEMENTED.value[0]
        note_refused(dispatcher.serving, path, "unknown", number, context, known=known)
        await abort_unstarted(context, grpc.StatusCode.UNIMPLEMENTED, text)

    async def iterated(requests: Any, context: Any) -> Any:
        await refuse(requests, context)
        yield

    shape = Shape.STREAM_STREAM
    return grpc_handler(shape.value, iterated) if dispatcher.foreign else ServedMethod(shape, refuse)
