"""Finds the method that a call is for, by its path, and the form of answer that its caller wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pymicro.base.loggers import logger
from pymicro.base.printable import excerpt
from pymicro.rpc.wire.gomicro import CODEC, FROM_SERVICE
from pymicro.serving.call.dispatch import Dispatcher
from pymicro.serving.foreign import Adapter
from pymicro.serving.gomicro.caller import ORDINARY, Caller, caller_of
from pymicro.serving.gomicro.codecs import ACCEPTED, is_json
from pymicro.serving.gomicro.paths import Paths
from pymicro.serving.handlers.servicers import adopt_handler
from pymicro.serving.rpc_forms import Found, RpcForms, Translate, refusing

if TYPE_CHECKING:
    import grpc

    from pymicro.serving.transport import CallDetails

__all__ = ["Router"]

log = logger("pymicro.server")

# A caller that sends one of these may be special; searched before every call (0.1 to 0.2 µs).
_MARKS = frozenset({CODEC, FROM_SERVICE})


class Router:
    """Finds a call's method by its path.

    One dictionary replaces grpc's registered methods: each of those adds a pending
    future to every turn of grpc.aio's accept loop.

    Args:
        served: The methods, by path.
        paths: The same methods, for callers that use another prefix.
        dynamic: The user's generic handlers, asked for paths that `served` lacks.
        dispatcher: Serves the methods that these find.
        translate: As for `RpcForms`.
        adapter: Serves those of them that the dispatcher cannot.
    """

    def __init__(
        self,
        served: Mapping[str, RpcForms],
        paths: Paths,
        dynamic: Sequence[grpc.GenericRpcHandler],
        dispatcher: Dispatcher,
        translate: Translate,
        adapter: Adapter,
    ) -> None:
        self._ordinary = {path: one.ordinary for path, one in served.items()}
        self._served = dict(served)
        self._paths = paths
        self._dynamic = tuple(dynamic)
        self._dispatcher = dispatcher
        self._translate = translate
        self._adapter = adapter

    def find(self, details: CallDetails) -> Found:
        """The method for a call; for an unknown path, one that refuses and says why."""
        for key, _ in details.invocation_metadata:
            if key in _MARKS:
                caller = caller_of(details.invocation_metadata)
                if caller is not ORDINARY:
                    return self._marked(details, caller)
                break
        found = self._ordinary.get(details.method)
        return found if found is not None else self._otherwise(details, ORDINARY, False)

    def _marked(self, details: Any, caller: Caller) -> Found:
        """The handler for callers from go-micro, and for others that name a form of messages."""
        json = is_json(caller.content_type)
        if json is None:
            kind = f"{CODEC} {excerpt(caller.content_type)}"
            return self._refuse(details.method, f"{kind} is not read here, but {', '.join(ACCEPTED)}", caller)
        served = self._served.get(details.method)
        if served is None:
            return self._otherwise(details, caller, json)
        return served.form(json, caller.go_micro)

    def _otherwise(self, details: Any, caller: Caller, json: bool) -> Found:
        path = details.method
        for generic in self._dynamic:
            try:
                given = generic.service(details)
            except Exception:
                log.exception("%s: the generic handler %s failed", path, excerpt(generic))
                continue
            if given is not None:
                method, _ = adopt_handler(path, given)
                if method is None:  # it has a form that only grpc.aio knows
                    return given if self._dispatcher.foreign else self._adapter.method(details, given)
                return RpcForms(method, self._dispatcher, self._translate).form(json, caller.go_micro)
        like = self._paths.like(path)
        if len(like) == 1:
            return self._served[like[0]].form(json, caller.go_micro)
        # Another node may know the path: this address belonged to another service, or this node is older.
        return self._refuse(path, self._paths.explain(path), caller)

    def _refuse(self, path: str, text: str, caller: Caller) -> Found:
        found = refusing(path, text, self._dispatcher, known=path in self._served)
        return self._translate(path, found) if caller.go_micro else found
