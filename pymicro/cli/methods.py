"""What `pymicro list` does: methods with their shapes, from reflection or the registry record."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymicro.calling.peers.reflection import NoReflection
from pymicro.cli.clients import at_address, known_nodes, make_client, nobody
from pymicro.cli.listing import print_array, print_table
from pymicro.cli.reflecting import reflect
from pymicro.cli.report import EXIT_FAILED, note, utf8

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

    from pymicro.nodes.node import Endpoint, Node

__all__ = ["list_methods"]


@dataclass(frozen=True, slots=True)
class _Method:
    """One method to show.

    Attributes:
        request: Full name of its request message; empty if unknown.
        response: Full name of its response message; empty if unknown.
        streams: Whether requests and responses are streams; None if unknown.
        remarks: Remarks in words.
    """

    service: str
    name: str
    request: str
    response: str
    streams: tuple[bool, bool] | None
    remarks: Sequence[str] = ()

    @classmethod
    def of_descriptor(cls, method: MethodDescriptor) -> _Method:
        return cls(
            method.containing_service.full_name,
            method.name,
            method.input_type.full_name,
            method.output_type.full_name,
            (method.client_streaming, method.server_streaming),
            ("deprecated",) if method.GetOptions().deprecated else (),
        )

    @classmethod
    def of_endpoint(cls, endpoint: Endpoint) -> _Method:
        service, _, name = endpoint.name.rpartition(".")
        request, response = (
            value.type if value is not None else "" for value in (endpoint.request, endpoint.response)
        )
        # go-micro's record says that the method streams, but not which side.
        stream = endpoint.metadata.get("stream") == "true"
        streams = None if stream else (False, False)
        return cls(service, name, request, response, streams, ("stream",) if stream else ())

    def row(self, wide: bool, arrow: str) -> list[str]:
        """Name, request and response."""
        package = self.service.rpartition(".")[0]

        def shown(message: str, stream: bool) -> str:
            short = message.removeprefix(f"{package}.") if package and not wide else message
            return f"{'stream ' * stream}{short or '?'}"

        takes, gives = self.streams or (False, False)
        remarks = f"  ({', '.join(self.remarks)})" if self.remarks else ""
        name = f"{self.service}/{self.name}" if self.service else self.name
        return [name, shown(self.request, takes), f"{arrow} {shown(self.response, gives)}{remarks}"]

    def to_json(self) -> dict[str, Any]:
        takes, gives = self.streams or (None, None)
        return {
            "name": self.name,
            "request": self.request or None,
            "response": self.response or None,
            "client_streaming": takes,
            "server_streaming": gives,
            "deprecated": "deprecated" in self.remarks,
        }


# A service's methods; None for a service that the server does not describe.
_Services = dict[str, list[_Method] | None]


async def list_methods(
    service: str, argv: Sequence[str], output: str, *, everything: bool, address: str | None
) -> int:
    """Print the methods; return the exit code."""
    async with make_client(at_address(argv, service, address)) as client:
        nodes = await known_nodes(client, service)
        if not nodes:
            note(await nobody(client, service))
            return EXIT_FAILED
        hidden: Sequence[str] = ()
        try:
            reflected = await reflect(client, service, everything=everything)
            hidden = reflected.hidden
            reflected.tell_what_lacks()
            found = {name: _methods(service) for name, service in reflected.services().items()}
        except NoReflection as exc:
            found = _recorded(nodes)
            if not found:
                raise NoReflection(f"{exc}, and no registry record lists its endpoints") from exc
            note(f"{exc}: this is what its registry record lists")
    _print(found, output)
    if not found:
        note(f"nothing but {', '.join(hidden)}: --all lists these" if hidden else "no proto service at all")
    return 0


def _methods(service: ServiceDescriptor | None) -> list[_Method] | None:
    return None if service is None else [_Method.of_descriptor(method) for method in service.methods]


def _recorded(nodes: Iterable[Node]) -> _Services:
    """The endpoints from the first node's record that has any; all nodes of a service have the same."""
    endpoints = next((node.endpoints for node in nodes if node.endpoints), ())
    found: _Services = {}
    for endpoint in endpoints:
        method = _Method.of_endpoint(endpoint)
        listed = found.setdefault(method.service, [])
        assert listed is not None
        listed.append(method)
    return found


def _print(found: _Services, output: str) -> None:
    if output == "json":
        print_array(
            [
                {"name": name, "methods": [method.to_json() for method in methods or ()]}
                for name, methods in found.items()
            ]
        )
        return
    arrow = "→" if utf8(sys.stdout) else "->"
    rows: list[list[str]] = []
    for name, methods in found.items():
        if methods:
            rows += [method.row(output == "wide", arrow) for method in methods]
        else:
            rows.append([name, "(no methods)" if methods is not None else "(not described)", ""])
    print_table((), rows, fixed=1, empty="")
