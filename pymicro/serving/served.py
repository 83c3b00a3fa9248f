"""All methods of a server as its transport calls them: the users', health, reflection and go-micro's."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import grpc

from pymicro.base.loggers import logger
from pymicro.serving import health as health_service
from pymicro.serving.call.context import Serving
from pymicro.serving.call.dispatch import Dispatcher
from pymicro.serving.call.threads import HandlerThreads
from pymicro.serving.call_log import log_calls
from pymicro.serving.foreign import Adapter, Foreign
from pymicro.serving.gomicro.paths import Paths
from pymicro.serving.gomicro.translator import Translator
from pymicro.serving.guarding import OFF
from pymicro.serving.handlers import HandlerTable, RpcHandler
from pymicro.serving.reflection import reflection_handlers
from pymicro.serving.router import Router
from pymicro.serving.rpc_forms import RpcForms, Translate

if TYPE_CHECKING:
    from pymicro.rpc.interceptors import Interceptor
    from pymicro.serving.transport import ServedMethods
    from pymicro.settings.config import Config

__all__ = ["served_methods"]

log = logger("pymicro.server")


def served_methods(
    config: Config,
    serving: Serving,
    tables: Mapping[str, HandlerTable],
    dynamic: Sequence[grpc.GenericRpcHandler],
    healths: Sequence[HandlerTable],
    debugs: Sequence[RpcHandler],
    *,
    interceptors: tuple[Interceptor, ...],
    foreign: Sequence[grpc.aio.ServerInterceptor],
    threads: HandlerThreads,
    reading: HandlerThreads,
) -> ServedMethods:
    """What a transport finds methods in.

    Args:
        tables: The users' handlers, by proto service.
        dynamic: Their generic handlers, which decide at each call which methods they have.
        healths: pymicro's own health.
        debugs: go-micro's `Debug`, as this server has it.
        interceptors: Ours, around the users' methods.
        foreign: grpc.aio's, around all methods.
        threads: Runs handlers that are no coroutines.
        reading: Parses long messages; both are closed by whoever made them.
    """
    if log.isEnabledFor(logging.DEBUG):
        interceptors = (log_calls, *interceptors)
    limit = config.max_sent_message_size or math.inf

    def dispatcher(calls: Serving, around: tuple[Interceptor, ...]) -> Dispatcher:
        return Dispatcher(calls, threads, reading, interceptors=around, foreign=bool(foreign), limit=limit)

    # These have a set of calls of their own: a watch is no call in progress, and no limit applies.
    aside = Serving(
        serving.loop,
        serving.draining,
        has_cancelled=serving.has_cancelled,
        yielded=serving.yielded,
        guard=serving.guard,
    )
    users, own = dispatcher(serving, interceptors), dispatcher(aside, ())
    # Users may bring their own health or reflection, which count like ours.
    theirs = dispatcher(aside, interceptors)
    gomicro = Translator(config.server_name)
    translate, adapter = Translate(gomicro, serving), Adapter(serving, threads, gomicro)

    methods = [method for table in healths for method in table.methods]
    if config.reflection != OFF:
        described = [table.descriptor for table in tables.values() if table.descriptor]
        methods += reflection_handlers([*described, health_service.source])
    kept = {method.rpc.path: method for method in methods}
    served = {
        method.rpc.path: RpcForms(method, theirs if method.rpc.path in kept else users, translate)
        for table in tables.values()
        for method in table.methods
    }
    if any(table.service == health_service.source.full_name for table in tables.values()):
        log.info(
            "the service has a health (%s) of its own: what pymicro knows does not count there, and "
            "Kubernetes' probes ask it for `%s` too, if `pymicro manifest` wrote them",
            health_service.source.full_name,
            health_service.LIVENESS,
        )
    paths = Paths(served)
    for path, method in kept.items():
        if path not in served:
            served[path] = RpcForms(method, own, translate)
            paths.add(path)
    for method in debugs:
        if not paths.like(method.rpc.path):  # a user's own Debug takes precedence
            served[method.rpc.path] = RpcForms(method, own, translate)
            paths.add(method.rpc.path, by_end=True)
    router = Router(served, paths, dynamic, users, translate, adapter)
    # Without foreign interceptors, all that the router finds are methods in bytes.
    return Foreign(router.find, foreign, adapter) if foreign else cast("ServedMethods", router)
