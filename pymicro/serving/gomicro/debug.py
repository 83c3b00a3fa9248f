"""go-micro's own Debug service, which its probes and its health sidecar call.

Facts from go-micro v1.18.0: `debug/service/proto/debug.proto`, `debug/service/handler/debug.go`.
As in go-micro, any prefix reaches it, and no registry record lists it. Its `Log`, which
reads a buffer of the last log lines, is missing here: no probe of a service calls it.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from pymicro.serving.handlers.mark import handler
from pymicro.serving.handlers.table import build

if TYPE_CHECKING:
    from pymicro.serving.handlers.types import RpcHandler
    from pymicro.serving.health import HealthService

__all__ = ["Debug"]

_Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES = {
    "HealthRequest": {"service": _Field.TYPE_STRING},
    "HealthResponse": {"status": _Field.TYPE_STRING},
    "StatsRequest": {"service": _Field.TYPE_STRING},
    "StatsResponse": dict.fromkeys(
        ("timestamp", "started", "uptime", "memory", "threads", "gc"), _Field.TYPE_UINT64
    ),
}


class Debug:
    """Health and Stats of one server.

    Args:
        health: Says whether the server serves.
    """

    def __init__(self, health: HealthService) -> None:
        self._health = health
        self._started = time.time()
        self._since = time.monotonic()
        self._pauses = _Pauses()
        methods = _source().methods_by_name
        self._health_response = GetMessageClass(methods["Health"].output_type)
        self._stats_response = GetMessageClass(methods["Stats"].output_type)

    def handlers(self, name: str) -> list[RpcHandler]:
        """The handlers, as go-micro's clients call them.

        Args:
            name: The service's registered name, which may be empty.
        """
        tables, _ = build(self, _source())
        prefix = f"/{name}." if name else "/"
        return [
            replace(method, rpc=replace(method.rpc, path=prefix + method.rpc.path.removeprefix("/")))
            for table in tables
            for method in table.methods
        ]

    def close(self) -> None:
        """Stop watching the garbage collector."""
        self._pauses.close()

    @handler
    async def health(self, request: Any) -> Any:
        """`ok`, as go-micro always says; another word while the server starts or stops.

        go-micro's sidecar, and any client that compares, takes every other word for a failure.
        The sidecar is a liveness probe in go-micro's manifests, and a service whose database is
        down must not be restarted for it: so what a service says of its own health does not count.
        """
        return self._health_response(status="ok" if self._health.serving else "not serving")

    @handler
    async def stats(self, request: Any) -> Any:
        """Figures of this process. Go reports goroutines as threads; these are the system's threads."""
        return self._stats_response(
            timestamp=int(time.time()),
            started=int(self._started),
            uptime=int(time.monotonic() - self._since),
            memory=_resident(),
            threads=_threads(),
            gc=self._pauses.total(),
        )


class _Pauses:
    """Nanoseconds that Python's cyclic garbage collector has taken since the first question.

    It does not count from the start: a process that nobody asks should not pay for the
    answer (0.3 µs for each collection).
    """

    def __init__(self) -> None:
        self._total = self._began = 0

    def total(self) -> int:
        if self._watch not in gc.callbacks:
            gc.callbacks.append(self._watch)
        return self._total

    def close(self) -> None:
        if self._watch in gc.callbacks:
            gc.callbacks.remove(self._watch)

    def _watch(self, phase: str, info: dict[str, int]) -> None:
        now = time.perf_counter_ns()
        if phase == "start":
            self._began = now
        elif self._began:
            self._total += now - self._began


def _resident() -> int:
    """Bytes of memory in use; without /proc, the largest amount so far."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        import resource
        import sys

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def _threads() -> int:
    """The number of the process's threads, grpc-core's too; without /proc, Python's only."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


@cache
def _source() -> ServiceDescriptor:
    """The service, from a pool of its own: its names have no package and would clash with others."""
    file = descriptor_pb2.FileDescriptorProto(name="debug.proto", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            message.field.add(name=field, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
    service = file.service.add(name="Debug")
    for name in ("Health", "Stats"):
        service.method.add(name=name, input_type=f".{name}Request", output_type=f".{name}Response")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindFileByName(file.name).services_by_name["Debug"]
