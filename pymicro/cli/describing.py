"""What `pymicro describe` does: finds what the user means in a server's reflection, and prints it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymicro.base.printable import listed
from pymicro.calling.peers.reflection import NoReflection, ReflectionError
from pymicro.cli.clients import at_address, known_nodes, make_client, nobody
from pymicro.cli.reflecting import Described, not_described, reflect, tell_gaps
from pymicro.cli.report import EXIT_FAILED, InputError, dump, note, on_terminal, printable, say
from pymicro.rpc.schema import Symbol, SymbolNotFound, Symbols, file_text, symbol_text, to_raw_json

if TYPE_CHECKING:
    from pymicro.client import Client

__all__ = ["describe_service"]


async def describe_service(
    service: str, symbol: str, argv: Sequence[str], output: str, *, everything: bool, address: str | None
) -> int:
    """Print the proto source; return the exit code."""
    async with make_client(at_address(argv, service, address)) as client:
        if not await known_nodes(client, service):
            note(await nobody(client, service))
            return EXIT_FAILED
        try:
            if symbol:
                shown = await _find(client, service, symbol, everything=everything)
            else:
                shown = await _services(client, service, everything=everything)
        except NoReflection as exc:
            shows = f"'pymicro list {service}' shows what its registry record lists"
            raise NoReflection(str(exc) if address else f"{exc}; {shows}") from exc
    if output == "json":
        say(dump(shown.document, pretty=on_terminal()))
    elif shown.source:
        say(printable(shown.source.removesuffix("\n")))
    return 0


@dataclass(frozen=True, slots=True)
class _Shown:
    """The output, in both forms."""

    source: str
    document: Any


async def _services(client: Client, service: str, *, everything: bool) -> _Shown:
    described = await reflect(client, service, everything=everything)
    symbols = Symbols(described.schema.files())
    found = [symbol for name in described.names if (symbol := symbols.get(name))]
    described.tell_what_lacks()
    if not described.names:
        hidden = listed(described.hidden)
        note(f"nothing but {hidden}: --all shows these" if hidden else "no proto service at all")
    return _Shown(_source(found, symbols), [_to_json(symbol) for symbol in found])


async def _find(client: Client, service: str, text: str, *, everything: bool) -> _Shown:
    """Find a symbol by name, even if it belongs to a service that is not shown otherwise."""
    described = await reflect(client, service, everything=everything, symbol=text)
    tell_gaps(described.schema)
    try:
        return _search(described, text)
    except SymbolNotFound as exc:
        with suppress(SymbolNotFound):
            return _search(await reflect(client, service, everything=True), text)
        wanted = text.replace("/", ".").strip(".")
        for name, reason in described.reasons.items():
            if f".{name}".endswith(f".{wanted}") or wanted.startswith(f"{name}."):
                raise ReflectionError(not_described(name, reason)) from exc
        raise InputError(str(exc)) from exc


def _search(described: Described, text: str) -> _Shown:
    files = described.schema.files()
    symbols = Symbols(files)
    for file in files:
        if file.name == text:
            document = {
                "name": file.name,
                "kind": "file",
                "file": file.name,
                "descriptor": to_raw_json(file)[0],
            }
            return _Shown(file_text(file, symbols), document)
    found = symbols.find(text)
    return _Shown(_source(_with_messages(found, symbols), symbols), _to_json(found))


def _with_messages(symbol: Symbol, symbols: Symbols) -> list[Symbol]:
    """A method with its request and response messages: a caller needs all of them."""
    if symbol.kind != "method":
        return [symbol]
    names = dict.fromkeys([symbol.descriptor.input_type, symbol.descriptor.output_type])
    messages = [symbols.get(name.removeprefix(".")) for name in names]
    return [symbol, *(message for message in messages if message is not None)]


def _source(found: Sequence[Symbol], symbols: Symbols) -> str:
    # The name is a comment with an empty line after it, so that all can be pasted into a proto file.
    parts = [f"// {symbol.name}, in {symbol.file.name}\n\n{symbol_text(symbol, symbols)}" for symbol in found]
    return "\n".join(parts)


def _to_json(symbol: Symbol) -> dict[str, Any]:
    return {
        "name": symbol.name,
        "kind": symbol.kind,
        "file": symbol.file.name,
        "descriptor": to_raw_json(symbol.descriptor)[0],
    }
