"""The half of a server to which handlers are added: they are checked, and who may call them is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pymicro.base.errors import HandlerMismatch, HandlersError
from pymicro.base.loggers import logger
from pymicro.identity.rules import AllowedCallers
from pymicro.rpc.grpcio import method_handlers, servicer_of
from pymicro.serving.endpoints import endpoints_of
from pymicro.serving.handlers import HandlerTable, adopt, build

if TYPE_CHECKING:
    import grpc

    from pymicro.nodes.node import Endpoint

__all__ = ["AddedHandlers"]

log = logger("pymicro.server")

# Programs that were written for grpc.aio.server add these packages' servicers.
_GRPCIOS = {
    "grpc_health": "health is always served, so grpcio's HealthServicer is left out: "
    "set_health() and health_check() say whether the service is well",
    "grpc_reflection": "reflection is always served, so grpcio's ReflectionServicer is left out",
}


class AddedHandlers:
    """Takes handlers in any of the ways that programs of grpc.aio know, until the port is bound."""

    def __init__(self) -> None:
        # The handlers of each proto service, by its full name, and who may call it where that was said.
        self._tables: dict[str, HandlerTable] = {}
        self._allowed: dict[str, AllowedCallers] = {}
        # Generic handlers that decide at each call which methods they have.
        self._dynamic: list[grpc.GenericRpcHandler] = []
        self._bound = False
        self._mismatches: list[HandlerMismatch] = []
        self._adopted: dict[str, Mapping[str, Any]] = {}
        self._told: set[str] = set()

    def add(
        self,
        obj: object,
        source: Any = None,
        *,
        partial: bool = False,
        allow: Sequence[str] | None = None,
    ) -> None:
        """Add an object with handlers; `check` reports its mismatches.

        Args:
            obj: An instance of a class with `@handler` methods, or of a
                generated servicer's subclass.
            source: The generated `*_pb2` module or a `ServiceDescriptor`; None
                for a servicer.
            partial: Whether rpcs may lack a handler on purpose; they answer UNIMPLEMENTED.
            allow: Who may call it; None if that is not said here.

        Raises:
            ConfigError: `allow` is no list of callers.
        """
        self._not_bound_yet()
        if self._left_out_if_grpcios(obj):
            return
        tables, mismatches = build(obj, source, partial=partial)
        self._mismatches += mismatches
        for table in tables:
            self._add_table(table)
            callers = AllowedCallers.of(allow, f"allow= of {table.service}")
            if callers is not None:
                self._allowed[table.service] = callers

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """For `add_…Servicer_to_server`, which calls it; other generic handlers are served too."""
        self._not_bound_yet()
        for generic in generic_rpc_handlers:
            methods = method_handlers(generic)
            if methods is None:
                self._dynamic.append(generic)
            else:
                self._adopt(generic.service_name(), methods)  # type: ignore[attr-defined]

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """For newer `add_…Servicer_to_server` functions, which call it too, with the same methods."""
        self._not_bound_yet()
        self._adopt(service_name, method_handlers)

    def check(self) -> None:
        """Refuse handlers that do not fit their protos.

        Raises:
            HandlersError: Names every mismatch of everything that was added.
        """
        if self._mismatches:
            raise HandlersError(self._mismatches)

    @property
    def services(self) -> tuple[str, ...]:
        """Full names of the added proto services, sorted."""
        return tuple(sorted(self._tables))

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every added method, for the registry record."""
        return endpoints_of(self._tables[name] for name in self.services)

    @property
    def method_count(self) -> int | None:
        """How many methods were added; None if a generic handler decides at each call which it has."""
        return None if self._dynamic else sum(len(table.methods) for table in self._tables.values())

    def _add_table(self, table: HandlerTable) -> None:
        earlier = self._tables.get(table.service)
        if earlier is not None:
            found = f"a second one at {table.where}"
            self._mismatches.append(
                HandlerMismatch(earlier.where, table.service, "one object with its handlers", found)
            )
            return
        self._tables[table.service] = table

    def _left_out_if_grpcios(self, servicer: object) -> bool:
        """Whether a servicer is grpcio's own health or reflection: pymicro always serves its own instead."""
        what = _GRPCIOS.get(type(servicer).__module__.partition(".")[0])
        if what is None:
            return False
        if what not in self._told:
            self._told.add(what)
            log.info("%s", what)
        return True

    def _adopt(self, service: str, methods: Mapping[str, Any]) -> None:
        servicers = {id(servicer): servicer for servicer in map(servicer_of, methods.values())}
        if servicers and all(map(self._left_out_if_grpcios, servicers.values())):
            return
        earlier = self._adopted.get(service)
        if earlier is not None and dict(earlier) == dict(methods):
            return  # generated code passes the same methods in both ways
        self._adopted[service] = methods
        table, mismatches = adopt(service, methods)
        self._mismatches += mismatches
        self._add_table(table)

    def _not_bound_yet(self) -> None:
        if self._bound:
            raise RuntimeError("handlers are added, and the port bound, once and before the server starts")
