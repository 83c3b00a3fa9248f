"""From an object with handlers to tables that dispatch can use, or every mismatch at once."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from pymicro.base.errors import HandlerMismatch
from pymicro.rpc.idempotent import says_idempotent
from pymicro.serving.handlers.fit import fit
from pymicro.serving.handlers.inspection import place_of_class, place_of_function
from pymicro.serving.handlers.mark import Mark, is_idempotent, marked_names
from pymicro.serving.handlers.protos import (
    message_class,
    normal,
    rpc_of,
    services_in,
    suggested,
)
from pymicro.serving.handlers.servicers import tables_of_servicer
from pymicro.serving.handlers.types import HandlerTable, RpcHandler

__all__ = ["build"]


def build(
    obj: object, source: Any = None, *, partial: bool = False
) -> tuple[list[HandlerTable], list[HandlerMismatch]]:
    """The handler tables of an object, checked against its proto.

    Args:
        obj: An instance of a class with `@handler` methods, or of a generated
            servicer's subclass.
        source: The generated `*_pb2` module, a `ServiceDescriptor`, or None for
            a servicer, which names its service itself.
        partial: Whether rpcs may lack a handler on purpose.

    Returns:
        One table for each proto service (a servicer may inherit from several),
        and all mismatches; serve the tables only if there are none.
    """
    cls = type(obj)
    if isinstance(obj, type):
        where = place_of_class(obj)
        hint = f"add an instance: {obj.__name__}()"
        return [], [HandlerMismatch(where, obj.__qualname__, "an object with handlers", "its class", hint)]
    if not any(marked_names(cls)):
        tables, mismatches = tables_of_servicer(obj)
        if tables or mismatches:
            return _only(tables, source), mismatches
    service, mismatch = _find_service(cls, source)
    if service is None:
        return [], [mismatch] if mismatch else []
    return _Builder(obj, service, partial).build()


def _only(tables: list[HandlerTable], source: Any) -> list[HandlerTable]:
    """A servicer's tables; with a source, only those of the source's services."""
    wanted = services_in(source)
    if wanted is None:
        return tables
    names = {service.full_name for service in wanted}
    return [table for table in tables if table.service in names]


def _find_service(cls: type, source: Any) -> tuple[ServiceDescriptor | None, HandlerMismatch | None]:
    where = place_of_class(cls)
    services = services_in(source)
    if services is None:
        if source is None:
            expected, found = "the proto it serves", "none given, and it is no generated servicer"
            hint = f"service.add({cls.__name__}(), the_generated_pb2)"
        else:
            expected = "a generated *_pb2 module or a ServiceDescriptor"
            found = getattr(source, "__name__", None) or repr(source)
            is_stubs = str(found).endswith("_pb2_grpc")
            hint = f"{str(found).removesuffix('_grpc')} has the descriptors" if is_stubs else ""
        return None, HandlerMismatch(where, cls.__qualname__, expected, str(found), hint)
    if isinstance(source, ServiceDescriptor):
        return source, None
    named = [service for service in services if normal(service.name) == normal(cls.__name__)]
    exact = [service for service in named if service.name == cls.__name__]
    chosen = exact or named or services
    if len(chosen) == 1:
        return chosen[0], None
    file = getattr(source, "__name__", None) or source.name
    names = ", ".join(service.name for service in services)
    if not services:
        return None, HandlerMismatch(where, cls.__qualname__, "a proto service", f"{file} defines none")
    hint = suggested(cls.__name__, [service.name for service in services])
    pointer = "name the class after one, or give its descriptor: "
    pointer += f'service.add(…, {file.rpartition(".")[2]}.DESCRIPTOR.services_by_name["{services[0].name}"])'
    return None, HandlerMismatch(
        where,
        cls.__qualname__,
        f"the name of one of {file}'s services: {names}",
        f"class {cls.__name__}",
        f"{hint} " + pointer if hint else pointer,
    )


@dataclass
class _Builder:
    obj: object
    service: ServiceDescriptor
    partial: bool
    mismatches: list[HandlerMismatch] = field(default_factory=list)
    methods: dict[str, RpcHandler] = field(default_factory=dict)
    claimed: dict[str, str] = field(default_factory=dict)  # rpc → its handler so far

    def build(self) -> tuple[list[HandlerTable], list[HandlerMismatch]]:
        for name, mark in marked_names(type(self.obj)):
            rpc = self._rpc_for(name, mark)
            if rpc is not None:
                self._claim(name, rpc, mark)
        if not self.partial:
            self._report_missing()
        ordered = tuple(self.methods[r.name] for r in self.service.methods if r.name in self.methods)
        where = place_of_class(type(self.obj))
        return [HandlerTable(self.service.full_name, where, ordered, self.service)], self.mismatches

    def _rpc_for(self, name: str, mark: Mark) -> MethodDescriptor | None:
        rpcs: dict[str, MethodDescriptor] = dict(self.service.methods_by_name.items())
        wanted = mark.rpc or name
        if wanted in rpcs:
            return rpcs[wanted]
        near = [] if mark.rpc else [rpc for rpc in rpcs.values() if normal(rpc.name) == normal(name)]
        if len(near) == 1:
            return near[0]
        if near:
            names = " and ".join(rpc.name for rpc in near)
            expected = f"one rpc; {names} are the same with case and underscores dropped"
            hint = " or ".join(f'@handler("{rpc.name}")' for rpc in near)
        else:
            expected = f"an rpc of {self.service.full_name}: {', '.join(rpcs) or 'it has none'}"
            hint = suggested(wanted, rpcs)
        found = f'@handler("{mark.rpc}")' if mark.rpc else name
        self._mismatch(place_of_function(getattr(self.obj, name)), self._label(name), expected, found, hint)
        return None

    def _claim(self, name: str, rpc: MethodDescriptor, mark: Mark) -> None:
        function = getattr(self.obj, name)
        label = self._label(name)
        if rpc.name in self.claimed:
            expected, where = f"one handler for {rpc.name}", place_of_function(function)
            self._mismatch(where, label, expected, f"a second one besides {self.claimed[rpc.name]}")
            return
        known = rpc_of(rpc)
        style, seen, mismatches = fit(function, known, label, writers=False)
        self.claimed[rpc.name] = f"{label} ({seen.where})"
        self.mismatches += mismatches
        if style is not None and not mismatches:
            self.methods[rpc.name] = RpcHandler(
                rpc=known,
                style=style,
                function=function,
                takes_context=seen.arity == 2,
                where=seen.where,
                label=label,
                deserialize=message_class(rpc.input_type).FromString,
                serialize=message_class(rpc.output_type).SerializeToString,
                idempotent=says_idempotent(rpc) or is_idempotent(function),
                allow=mark.allow,
            )

    def _report_missing(self) -> None:
        unmarked = {normal(name): name for name in self._unmarked()}
        where = place_of_class(type(self.obj))
        for rpc in self.service.methods:
            if rpc.name in self.claimed:
                continue
            name = unmarked.get(normal(rpc.name))
            hint = "write one, or add(…, partial=True)"
            if name is not None:
                hint = f"mark {self._label(name)} with @handler"
            self._mismatch(
                where, type(self.obj).__qualname__, f"a handler for {rpc_of(rpc).path}", "none", hint
            )

    def _unmarked(self) -> Iterator[str]:
        marked = {name for name, _ in marked_names(type(self.obj))}
        for name, _ in inspect.getmembers_static(type(self.obj), callable):
            if not name.startswith("__") and name not in marked:
                yield name

    def _label(self, name: str) -> str:
        return f"{type(self.obj).__qualname__}.{name}"

    def _mismatch(self, where: str, what: str, expected: str, found: str, hint: str = "") -> None:
        self.mismatches.append(HandlerMismatch(where, what, expected, found, hint))
