"""On a terminal of 80 columns everything fits, nothing of a stranger's is obeyed, and a pipe is as ever."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import termios

import pytest

from pymicro.cli.terminal import table
from pymicro.discovery.registries.local import LocalRegistry
from pymicro.nodes.node import Node
from pymicro.settings.config import load
from tests.cli_support import PATIENCE, Commands
from tests.processes import ROOT
from tests.shop import V1, ShopServer

LONG = Node(
    "greeter-74cf4a74-d2ce-4591-8d5b-dd304ff528c0",
    "127.0.0.1:37815",
    "greeter",
    "1.0.0",
    {"protocol": "grpc", "[red]region[/red]": "eu\x1b[2J", "rack": "a" * 120},
)


async def printed(pymicro: Commands, *argv: str, columns: int = 80, **env: str) -> str:
    """What a command prints on a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    loop = asyncio.get_running_loop()
    text, ended = b"", asyncio.Event()

    def read() -> None:
        nonlocal text
        try:
            more = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            more = b""
        text += more
        if not more:
            ended.set()

    loop.add_reader(ours, read)
    try:
        # An exported size, here of 80 columns, is none of the terminal's.
        settings = {"TERM": "xterm", **env}
        async with pymicro.started(*argv, stdout=theirs, stderr=theirs, **settings) as process:
            os.close(theirs)
            async with asyncio.timeout(PATIENCE):
                await process.wait()
                await ended.wait()
    finally:
        loop.remove_reader(ours)
        os.close(ours)
    return text.decode().replace("\r\n", "\n")


def plain(text: str) -> list[str]:
    """The lines without colours; no other sequence is allowed."""
    bare = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert "\x1b" not in bare
    return bare.splitlines()


@pytest.fixture
def environment(pymicro: Commands) -> Commands:
    pymicro.env.pop("NO_COLOR", None)
    return pymicro


async def test_a_wide_table_fits_and_shows_strangers_text_as_it_is(
    environment: Commands, registry_folder: str
) -> None:
    async with LocalRegistry(load({"registry_address": registry_folder}, environ={})) as registry:
        await registry.register(LONG)
        text = await printed(environment, "nodes", "greeter", "-o", "wide")
        uncoloured = await printed(environment, "nodes", "greeter", "-o", "wide", NO_COLOR="1")
        piped = await environment("nodes", "greeter", "-o", "wide", TERM="xterm")
    lines = plain(text)
    assert [line for line in lines if len(line) > 80] == []
    assert lines[0].split() == ["ID", "ADDRESS", "VERSION", "CALLED"]
    assert lines[1].split() == [LONG.id, LONG.address, "1.0.0", "yes"]
    metadata = "".join(line.strip() for line in lines[2:])
    assert metadata == rf"[red]region[/red]=eu\x1b[2J,protocol=grpc,rack={'a' * 120}"
    assert lines == plain(uncoloured)
    # The other columns of a pipe are one row each.
    assert piped.out.splitlines()[0].split() == ["ID", "ADDRESS", "VERSION", "CALLED", "METADATA"]
    assert len(piped.out.splitlines()) == 2


async def test_methods_fit(environment: Commands) -> None:
    async with ShopServer((V1,)) as server:
        text = await printed(environment, "list", "x", "-o", "wide", "--address", server.address, columns=60)
        piped = await environment("list", "x", "-o", "wide", "--address", server.address)
    lines = plain(text)
    assert [line for line in lines if len(line) > 60] == []
    assert [line.strip() for line in lines[:2]] == ["shop.v1.Shop/Buy", "shop.v1.Order → shop.v1.Receipt"]
    assert piped.out.splitlines()[0].split() == ["shop.v1.Shop/Buy", "shop.v1.Order", "→", "shop.v1.Receipt"]


async def test_each_line_of_doctor_has_a_mark_and_the_cure_a_line_of_its_own(
    environment: Commands, registry_folder: str
) -> None:
    async with LocalRegistry(load({"registry_address": registry_folder}, environ={})) as registry:
        await registry.register(LONG)
        text = await printed(environment, "doctor", "greter")
    lines = plain(text)
    assert [line for line in lines if len(line) > 80] == []
    assert [line[0] for line in lines if line[0] != " "] == ["✓", "✓", "✗", "1"]
    (cure,) = (line for line in lines if "→" in line)
    assert cure.strip().startswith("→ start it on this machine")
    assert "\x1b[1;31m✗" in text


async def test_an_error_begins_in_red(environment: Commands) -> None:
    text = await printed(environment, "doctor", "--registry=nothing")
    assert text.startswith("\x1b[1;31mpymicro doctor:\x1b[0m")


def test_what_does_not_even_fit_alone_is_folded() -> None:
    from rich.console import Console

    console = Console(width=30, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    rows = [["name-" * 8, "127.0.0.1:1", "why [b]not[/b]"], ["短い名前", "b", "-"]]
    with console.file:
        for part in table(["NAME", "ADDRESS", "NOTE"], rows, width=30):
            console.print(part)
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert lines[0].split() == ["NAME", "ADDRESS"]
    assert "".join(line.split()[0] for line in lines[1:4]) == "name-" * 8
    assert lines[4] == "    why [b]not[/b]"
    assert lines[5].split() == ["短い名前", "b"]


def test_the_pictures_of_the_pages_are_small() -> None:
    pictures = sorted((ROOT / "docs/terminal").glob("*.png"))
    assert pictures
    assert [picture.name for picture in pictures if picture.stat().st_size > 60_000] == []
