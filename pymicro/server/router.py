"""Which method a call is for, by its path; or who tells the caller that there is none."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import grpc

from pymicro.handlers.protos import did_you_mean
from pymicro.handlers.servicers import adopt_method
from pymicro.server.admission import abort_unstarted
from pymicro.server.dispatch import Dispatcher
from pymicro.wire.status import clip

__all__ = ["Router"]

log = logging.getLogger("pymicro.server")


class Router(grpc.GenericRpcHandler):
    """Finds a call's method by its path.

    One dictionary instead of grpc's registered methods: each of those adds a
    pending future to every turn of grpc.aio's accept loop.

    Args:
        handlers: By path.
        dynamic: Other people's generic handlers, asked for paths not among these.
    """

    def __init__(
        self,
        handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
        dynamic: Sequence[grpc.GenericRpcHandler],
        dispatcher: Dispatcher,
    ) -> None:
        self._handlers = dict(handlers)
        self._dynamic = tuple(dynamic)
        self._dispatcher = dispatcher

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any]:
        """Never None: a path that nobody serves is answered by who says so."""
        found = self._handlers.get(handler_call_details.method)
        return found if found is not None else self._otherwise(handler_call_details)

    def _otherwise(self, details: Any) -> grpc.RpcMethodHandler[Any, Any]:
        for generic in self._dynamic:
            try:
                given = generic.service(details)
            except Exception:
                log.exception("%s: the generic handler %r failed", details.method, generic)
                continue
            if given is not None:
                method, _ = adopt_method(details.method, given)
                return given if method is None else self._dispatcher.build(method)
        text = self._not_served(details.method)

        async def unknown(requests: Any, context: Any) -> AsyncIterator[Any]:
            # Elsewhere it may be known: this address was another service's, or this node is an older one.
            await abort_unstarted(context, grpc.StatusCode.UNIMPLEMENTED, text)
            yield

        return grpc.stream_stream_rpc_method_handler(unknown)

    def _not_served(self, path: str) -> str:
        shown = path if len(path) <= 200 else path[:200] + "..."
        service, _, name = path.removeprefix("/").rpartition("/")
        by_service: dict[str, list[str]] = {}
        for known in self._handlers:
            owner, _, rpc = known[1:].rpartition("/")
            by_service.setdefault(owner, []).append(rpc)
        if service in by_service:
            rpcs = by_service[service]
            text = f"{shown} is not served here: {service} has {', '.join(rpcs)}"
            hint = did_you_mean(name, rpcs)
        else:
            text = f"{shown} is not served here: this server has {', '.join(by_service)}"
            hint = did_you_mean(service, by_service)
        return clip(f"{text}; {hint}" if hint else text, 1024)
