"""What `pymicro describe` does: finds what is meant among what a server reflects, and prints it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pymicro.cli.clients import at_address, make_client, nobody
from pymicro.cli.reflecting import reflect
from pymicro.cli.report import EXIT_FAILED, InputError, dump, note, on_terminal, printable, say
from pymicro.client.reflection import NoReflection
from pymicro.schema import Symbol, SymbolNotFound, Symbols, file_text, symbol_text, to_json

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

__all__ = ["describe_service"]


async def describe_service(
    service: str, symbol: str, argv: Sequence[str], output: str, *, everything: bool, address: str | None
) -> int:
    """Print the proto source; gives the exit code."""
    async with make_client(at_address(argv, service, address)) as client:
        if not await client.nodes(service):
            note(await nobody(client, service))
            return EXIT_FAILED
        try:
            # Whatever is asked for by name is found, be it hidden or not.
            every = everything or bool(symbol)
            reflected = await reflect(client, service, everything=every, symbol=symbol)
        except NoReflection as exc:
            shows = f"'pymicro list {service}' shows what its registry record lists"
            raise NoReflection(str(exc) if address else f"{exc}; {shows}") from exc
    files = reflected.schema.files()
    symbols = Symbols(files)
    for name in reflected.names:
        if symbols.get(name) is None and not symbol:
            note(f"the server names {name} and does not describe it")
    as_json = output == "json"
    if not symbol:
        services = [found for name in reflected.names if (found := symbols.get(name)) is not None]
        _print([_to_json(found) for found in services] if as_json else _source(services, symbols))
        if not services and reflected.hidden:
            note(f"nothing but {', '.join(reflected.hidden)}: --all shows these")
        return 0
    file = next((file for file in files if file.name == symbol), None)
    if file is not None:
        _print(_file_to_json(file) if as_json else file_text(file, symbols))
        return 0
    try:
        found = symbols.find(symbol)
    except SymbolNotFound as exc:
        raise InputError(str(exc)) from exc
    _print(_to_json(found) if as_json else _source(_with_messages(found, symbols), symbols))
    return 0


def _with_messages(symbol: Symbol, symbols: Symbols) -> list[Symbol]:
    """A method together with what it takes and gives: so much is needed to call it."""
    if symbol.kind != "method":
        return [symbol]
    names = dict.fromkeys([symbol.descriptor.input_type, symbol.descriptor.output_type])
    messages = [symbols.get(name.removeprefix(".")) for name in names]
    return [symbol, *(message for message in messages if message is not None)]


def _source(found: Sequence[Symbol], symbols: Symbols) -> str:
    # The first line is a comment of nothing, also where all of it is pasted into a proto file.
    parts = [f"// {symbol.name}, in {symbol.file.name}\n\n{symbol_text(symbol, symbols)}" for symbol in found]
    return "\n".join(parts)


def _to_json(symbol: Symbol) -> dict[str, Any]:
    return {
        "name": symbol.name,
        "kind": symbol.kind,
        "file": symbol.file.name,
        "descriptor": to_json(symbol.descriptor),
    }


def _file_to_json(file: FileDescriptorProto) -> dict[str, Any]:
    return {"name": file.name, "kind": "file", "file": file.name, "descriptor": to_json(file)}


def _print(shown: Any) -> None:
    if isinstance(shown, str):
        if shown:
            say(printable(shown.removesuffix("\n")))
    else:
        say(dump(shown, pretty=on_terminal()))
