"""What a shell offers to complete: names that the registry and the servers know.

The shell waits for the answer with every key that the user presses, so time is
limited and errors are not shown.
"""

from __future__ import annotations

import asyncio
import os
import queue
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, shell_complete

from pymicro.cli.clients import at_address, make_client, read_address
from pymicro.cli.flags import settings_argv
from pymicro.cli.report import EXIT_FAILED, Session

if TYPE_CHECKING:
    from pymicro.client import Client

__all__ = [
    "VARIABLE",
    "answer",
    "complete_files",
    "complete_methods",
    "complete_services",
    "complete_symbols",
]

# click's name for this variable, which click's scripts set.
VARIABLE = "_PYMICRO_COMPLETE"

# Seconds that the registry and a server have together.
_PATIENCE = 1.0

# Shells put a completion into the command line unchanged. Somebody who may register a
# service must not be able to put a command there.
_PLAIN = re.compile(r"[\w./@+-]+")

Ask = Callable[["Client"], Awaitable[Iterable[str]]]


def answer(command: click.Command, instruction: str) -> NoReturn:
    """Print what the shell asked for, and exit, whatever goes wrong.

    Args:
        command: The whole command line.
        instruction: The value of `VARIABLE`, such as `bash_complete`.
    """
    # This also silences C code, whose output would land in the middle of the line being typed.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    code = EXIT_FAILED
    with suppress(Exception):
        code = shell_complete(command, {"obj": Session()}, "pymicro", VARIABLE, instruction)
        sys.stdout.flush()
    os._exit(code)  # do not wait for a registry that does not answer


class _Bash(BashComplete):
    """bash splits words at `=` and `:`, and then click sees arguments that nobody gave."""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        joined: list[str] = []
        glued = False
        for word in args:
            breaks = bool(word) and not word.strip("=:")
            if joined and (glued or breaks):
                joined[-1] += word
            else:
                joined.append(word)
            glued = breaks
        # In `--registry=lo`, complete the word `lo` as the value of `--registry`.
        if joined and joined[-1].startswith("--"):
            joined[-1] = joined[-1].removesuffix("=")
        return joined, incomplete


add_completion_class(_Bash)


def complete_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell's own completion of files."""
    return [CompletionItem(incomplete, type="file")]


def complete_services(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the services that have nodes."""

    async def ask(client: Client) -> Iterable[str]:
        return await client.services()

    return _offer(incomplete, [_ask([*settings_argv(ctx), "--selector=registry"], ask)])


def complete_methods(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Methods of the named service: from its registry record, which is quicker, or by reflection."""
    service = ctx.params.get("service")
    if not service:
        return []

    async def recorded(client: Client) -> Iterable[str]:
        return [endpoint.name for node in await client.nodes(service) for endpoint in node.endpoints]

    async def reflected(client: Client) -> Iterable[str]:
        from pymicro.cli.reflecting import reflect

        found = await reflect(client, service, everything=False)
        return [method.full_name for one in found.services().values() if one for method in one.methods]

    argv = _argv(ctx, service)
    for ask in (recorded, reflected):
        if found := _offer(incomplete, _method_forms(_ask(argv, ask))):
            return found
    return []


def _method_forms(names: Iterable[str]) -> list[list[str]]:
    """`Greeter.SayHello`, `Greeter/SayHello`, both with the package in front, and `SayHello`."""
    full = [(service, method) for service, _, method in (name.rpartition(".") for name in names)]
    short = [(service.rpartition(".")[2], method) for service, method in full]
    forms = [
        [f"{service}{mark}{method}" for service, method in pairs] for pairs in (short, full) for mark in "./"
    ]
    return [*forms, [method for _, method in full]]


def complete_symbols(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The symbols of the named service that `describe` can show."""
    service = ctx.params.get("service")
    if not service:
        return []

    async def ask(client: Client) -> Iterable[str]:
        from pymicro.cli.reflecting import reflect
        from pymicro.rpc.schema import Symbols

        reflected = await reflect(client, service, everything=False)
        return [
            f"{symbol.file.package} {symbol.name}"
            for symbol in Symbols(reflected.schema.files())
            if symbol.kind in ("service", "message", "enum", "method")
            and symbol.file.package != "google.protobuf"
        ]

    pairs = [pair.split(" ") for pair in _ask(_argv(ctx, service), ask)]
    names = [name for _, name in pairs]
    return _offer(incomplete, [[name.removeprefix(f"{package}.") for package, name in pairs], names])


def _argv(ctx: click.Context, service: str) -> list[str]:
    address = ctx.params.get("address")
    return at_address(settings_argv(ctx), service, read_address(address) if address else None)


def _offer(incomplete: str, forms: Sequence[Iterable[str]]) -> list[CompletionItem]:
    """The names that begin with `incomplete`, in the first form that has any."""
    for names in forms:
        fitting = {name for name in names if name.startswith(incomplete) and _PLAIN.fullmatch(name)}
        if fitting:
            return [CompletionItem(name) for name in sorted(fitting)]
    return []


def _ask(argv: Sequence[str], ask: Ask) -> list[str]:
    """What a client finds out in time; nothing if it is too slow."""
    import pymicro.cli.reflecting  # noqa: F401 - grpc takes its time, which is not the registry's fault

    answers: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    async def work() -> None:
        async with make_client(argv) as client:
            # Hand over the answer before closing the client, which may take long too.
            answers.put(list(await ask(client)))

    def run() -> None:
        with suppress(Exception):
            asyncio.run(work())
        answers.put([])

    threading.Thread(target=run, name="completion", daemon=True).start()
    try:
        return answers.get(timeout=_PATIENCE)
    except queue.Empty:
        return []
