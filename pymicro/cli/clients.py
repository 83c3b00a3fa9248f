"""The client that commands work with, and the arguments of the command line that choose its nodes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pymicro.base.closing import closing
from pymicro.base.durations import format_duration, parse_duration
from pymicro.base.errors import RegistryError
from pymicro.base.suggest import did_you_mean
from pymicro.cli.report import InputError, note
from pymicro.nodes.address import join_address, split_address
from pymicro.runtime.loops import loop_factory

if TYPE_CHECKING:
    from pymicro.client import Client
    from pymicro.nodes.node import Node
    from pymicro.settings.config import Config

__all__ = [
    "address_option",
    "asks_for_log",
    "at_address",
    "first_nodes",
    "known_nodes",
    "late_nodes",
    "looking_again",
    "make_client",
    "near_name",
    "nobody",
    "read_address",
    "read_seconds",
    "run",
    "saying_what_it_waits_for",
]

# Seconds after which a command says what it waits for: most have got it by then.
_PATIENCE = 0.3
# Seconds after which a service without nodes is looked up again.
_LOOK_AGAIN = 0.25

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def address_option(command: F) -> F:
    """`--address`."""
    return click.option("--address", metavar="HOST:PORT", help="Ask this node, and no registry.")(command)


def read_address(text: str) -> str:
    """The value of `--address`, in the form to dial.

    Raises:
        InputError: It is no address.
    """
    try:
        host, port = split_address(text)
    except ValueError as exc:
        raise InputError(f"--address: {exc}") from None
    return join_address(host or "127.0.0.1", port)


def read_seconds(flag: str, text: str) -> float:
    """Seconds from a flag's text, such as `500ms`.

    Raises:
        InputError: It is no duration; names the flag.
    """
    try:
        return parse_duration(text)
    except ValueError as exc:
        raise InputError(f"{flag}: {exc}") from None


def at_address(argv: Sequence[str], service: str, address: str | None) -> list[str]:
    """The settings' flags; if `address` is given, they make it the only node of `service`."""
    if address is None:
        return list(argv)
    kept = [flag for flag in argv if not flag.startswith(("--registry", "--selector"))]
    return [
        *kept,
        "--registry=static",
        f"--registry-address={service}={address}",
        "--selector=registry",
        "--client-first-wait=0",
    ]


def make_client(argv: Sequence[str], *, waits: bool = False) -> Client:
    """A client with the settings of the environment and of `argv`, and a quiet log on stderr.

    Args:
        argv: Flags of settings.
        waits: Whether it waits for a service that starts at the same time, as a program's client does.
    """
    from pymicro.client import Client
    from pymicro.runtime import logs  # this and Client take most of a command's start

    # Of a busy machine a command's log need not tell that the command had to wait. The address in the
    # environment is that of the service: where this runs beside it, the port is taken.
    at_once = () if waits else ("--client-first-wait=0",)
    client = Client(argv=[*argv, *at_once, "--admin-address=off"], loop_lag=0.0)
    config = client.config
    if not asks_for_log(config):
        # At info, a line for each change of the nodes would appear between a command's own lines.
        config = config.replace("default", log_level="warning")
    logs.set_up(config)
    return client


def asks_for_log(config: Config) -> bool:
    """Whether somebody has set a command's log level; a file speaks of the log of services."""
    return config.source("log_level").startswith(("flag", "environment"))


async def known_nodes(client: Client, service: str) -> tuple[Node, ...]:
    """The nodes of a service, for a command that ends: it waits for them as long as a call would.

    Raises:
        RegistryError: They are not known by then; says why.
    """
    return await client.nodes(service, timeout=client.config.client_request_timeout or None)


async def first_nodes(client: Client, service: str) -> tuple[Node, ...]:
    """The nodes of a service; if it has none, this waits for one as a new client's calls do, and says so.

    Raises:
        RegistryError: They are not known by then; says why.
    """
    return await known_nodes(client, service) or await late_nodes(client, service)


async def late_nodes(client: Client, service: str) -> tuple[Node, ...]:
    """The nodes of a service that has none yet, as soon as it has; none if they do not come in that time."""
    wait = client.config.client_first_wait
    if not wait:
        return ()
    note(f"waiting {format_duration(wait)} for a node of {service}: {client.selector.describe(service)}")
    with suppress(TimeoutError), looking_again(client, service):
        async with asyncio.timeout(wait), closing(client.watch_nodes(service)) as sets:
            async for found in sets:
                if found:
                    return found.nodes
    return ()


@contextmanager
def looking_again(client: Client, service: str) -> Iterator[None]:
    """Asks a source that is told of no change, such as the DNS, to look the service up again and again."""

    async def look() -> None:
        while True:
            await asyncio.sleep(_LOOK_AGAIN)
            client.selector.refresh(service)

    looking = asyncio.ensure_future(look())
    try:
        yield
    finally:
        looking.cancel()


@asynccontextmanager
async def saying_what_it_waits_for(client: Client, service: str) -> AsyncIterator[None]:
    """Says on stderr that calls wait for a service which the client has not met, if they do so for long."""
    loop = asyncio.get_running_loop()

    def say() -> None:
        for target in client.core.targets:
            if target.service == service and target.first.lasts(loop.time()):
                left = format_duration(round(target.first.until - loop.time(), 1))
                note(f"waiting up to {left} for a node of {service}: {target.known}")
                return

    timer = loop.call_later(_PATIENCE, say)
    try:
        yield
    finally:
        timer.cancel()


async def nobody(client: Client, service: str) -> str:
    """Says that a service has no node, where pymicro looked, and which name is near."""
    if not client.selector.uses_registry:
        return f"no node of {service}: {client.selector.describe(service)} gives none"
    near = await near_name(client, service)
    return f"no node of {service}: {client.registry.describe()} lists 0 nodes" + (near and f"; {near}")


async def near_name(client: Client, service: str) -> str:
    """`did you mean 'greeter'?`, or nothing if no name is near or services cannot be listed."""
    if not client.selector.uses_registry:
        return ""
    try:
        names = [name for name in await client.services() if name != service]
    except RegistryError:  # the registry cannot list services, or is away
        return ""
    return did_you_mean(service, names).removeprefix("; ")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine.

    It gets the loop that `run` gives services, by MICRO_LOOP. Ctrl-C cancels it, so that calls in
    flight are cancelled at the server too; then this raises KeyboardInterrupt.
    """
    name = os.environ.get("MICRO_LOOP", "auto")
    # Reading the settings says what is wrong with any other name.
    factory = loop_factory(name if name in ("asyncio", "uvloop") else "auto")
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)
