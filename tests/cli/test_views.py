from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from pymicro.cli.views import Form, open_view
from pymicro.discovery.registries.local import LocalRegistry
from pymicro.nodes.node import Node
from pymicro.settings.config import load
from tests.cli_support import PATIENCE, Commands

ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"
ADA = Node("ada", "127.0.0.1:8001", "greeter", "1.0")
BOB = Node("bob", "127.0.0.1:8002", "greeter")


def _plain(text: str) -> str:
    """What is read: no sequences, and no spaces at the ends of lines."""
    text = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text).replace("\r", "")
    return "\n".join(line.rstrip() for line in text.split("\n"))


class Terminal:
    """A pseudo-terminal: what was written to it, and what a redrawn screen shows now."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        os.set_blocking(self.ours, False)
        self.text = ""
        self.resize(24)

    def resize(self, lines: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, 80, 0, 0))

    @property
    def screen(self) -> list[str]:
        """The last drawing, without the sequences that steer the terminal."""
        drawn = _plain(self.text.rpartition(ENTER)[2].partition(LEAVE)[0].rpartition("\x1b[H")[2])
        return drawn.rstrip().split("\n")

    async def until(self, wanted: str) -> None:
        """Read until the text has what is wanted; what was there before does not count."""
        start = len(self.text)
        await self._until(lambda: wanted in self.text[start:])

    async def shows(self, *wanted: str) -> None:
        """Read until the drawing has these lines below its title."""
        await self._until(lambda: self.screen[2:] == [*wanted])

    async def _until(self, is_there: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        more = asyncio.Event()
        loop.add_reader(self.ours, more.set)
        try:
            async with asyncio.timeout(PATIENCE):
                while not is_there():
                    await more.wait()
                    more.clear()
                    with suppress(BlockingIOError):  # told of twice
                        self.text += os.read(self.ours, 1 << 16).decode()
        except TimeoutError:
            raise AssertionError(
                f"what was waited for did not come; the last was\n{self.text[-2000:]!r}"
            ) from None
        finally:
            loop.remove_reader(self.ours)

    def close(self) -> None:
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


@asynccontextmanager
async def registry_in(folder: str, *nodes: Node) -> AsyncIterator[LocalRegistry]:
    async with LocalRegistry(load({"registry_address": folder}, environ={})) as registry:
        for node in nodes:
            await registry.register(node)
        yield registry


async def test_on_a_terminal_the_table_is_redrawn_and_its_last_state_stays(
    pymicro: Commands, registry_folder: str, terminal: Terminal
) -> None:
    async with (
        registry_in(registry_folder, ADA) as registry,
        pymicro.started("nodes", "greeter", "-w", stdout=terminal.theirs, TERM="xterm") as process,
    ):
        head, ada, bob = "ID   ADDRESS         VERSION", "ada  127.0.0.1:8001  1.0", "bob  127.0.0.1:8002  -"
        await terminal.shows(head, ada)
        assert ENTER in terminal.text
        assert re.fullmatch(r"nodes of greeter  \d\d:\d\d:\d\d  \(Ctrl-C ends\)", terminal.screen[0])
        await registry.register(BOB)
        await terminal.shows(head, ada, bob)

        # On a terminal that became too small the head stays; a larger one shows all again.
        terminal.resize(4)
        process.send_signal(signal.SIGWINCH)
        await terminal.shows(head, "… and 2 more")
        terminal.resize(24)
        process.send_signal(signal.SIGWINCH)
        await terminal.shows(head, ada, bob)

        process.send_signal(signal.SIGINT)
        await terminal.until("8002  -")
        assert await process.wait() == 130
        assert _plain(terminal.text.partition(LEAVE)[2]) == f"{head}\n{ada}\n{bob}\n"


async def test_a_view_that_is_stopped_or_ended_gives_the_terminal_back(
    pymicro: Commands, registry_folder: str, terminal: Terminal
) -> None:
    async with (
        registry_in(registry_folder, ADA),
        pymicro.started("services", "-w", stdout=terminal.theirs, TERM="xterm") as process,
    ):
        table = ("NAME     NODES  VERSIONS", "greeter  1      1.0")
        await terminal.shows(*table)
        process.send_signal(signal.SIGTSTP)
        await terminal.until(LEAVE)
        _, status = await asyncio.to_thread(os.waitpid, process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        await terminal.shows(*table)
        process.send_signal(signal.SIGTERM)
        await terminal.until(LEAVE)
        assert await process.wait() == -signal.SIGTERM
        assert process.stderr is not None
        assert await process.stderr.read() == b""


async def test_a_terminal_that_knows_no_sequences_gets_lines(
    pymicro: Commands, registry_folder: str, terminal: Terminal
) -> None:
    async with (
        registry_in(registry_folder, ADA),
        pymicro.started("nodes", "greeter", "-w", stdout=terminal.theirs, TERM="dumb"),
    ):
        await terminal.until("+  ada  127.0.0.1:8001  1.0\r\n")
    assert "\x1b" not in terminal.text


async def test_watched_services_are_a_document_for_each_change(
    pymicro: Commands, registry_folder: str
) -> None:
    async with (
        registry_in(registry_folder, ADA) as registry,
        pymicro.started("services", "-w", "-o", "json") as process,
    ):
        assert process.stdout is not None
        (service,) = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE))
        assert (service["name"], service["nodes"]) == ("greeter", 1)
        await registry.register(BOB)
        (service,) = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE))
        assert service["nodes"] == 2


@dataclass(frozen=True)
class Thing:
    name: str
    state: str
    time: str = ""


FORM: Form[Thing] = Form(
    title="things",
    header=["NAME", "TIME", "STATE"],
    row=lambda thing: [thing.name, thing.time, thing.state],
    change=lambda thing: [thing.name, thing.state],
    to_json=lambda thing: {"name": thing.name, "time": thing.time},
    colour=lambda thing: "red" if thing.state == "bad" else "",
)


def things(*found: Thing) -> dict[str, Thing]:
    return {thing.name: thing for thing in found}


async def test_only_what_counts_as_a_change_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for output in ("table", "json"):
        with open_view(output, FORM) as view:
            view.show(things(Thing("a", "good", "1"), Thing("b", "good", "1")))
            view.show(things(Thing("a", "good", "2"), Thing("b", "good", "3")))
            view.show(things(Thing("a", "bad", "4")), "b is gone")
            view.remark("the source is away")
    out, err = capsys.readouterr()
    assert [re.sub(r"^\d\d:\d\d:\d\d", "T", line) for line in out.splitlines()] == [
        "T  +  a  good",
        "T  +  b  good",
        "T  -  b  good",
        "T  ~  a  bad",
        '[{"name":"a","time":"1"},{"name":"b","time":"1"}]',
        '[{"name":"a","time":"4"}]',
    ]
    assert err == "b is gone\nthe source is away\n" * 2


@pytest.mark.parametrize("no_colour", ["", "1"])
async def test_a_screen_takes_the_log_and_gives_it_back(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, no_colour: str
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_colour)
    handlers = list(logging.getLogger().handlers)
    with (
        os.fdopen(os.dup(terminal.theirs), "w", encoding="utf-8") as stream,
        monkeypatch.context() as patched,
    ):
        patched.setattr(sys, "stdout", stream)
        patched.setattr(sys, "stderr", stream)
        with open_view("table", FORM) as view:
            view.show(things(Thing("a", "bad", "2")))
            logging.getLogger("pymicro.registry").warning("cannot be reached\x1b[2J")
            await terminal.shows("NAME  TIME  STATE", "a     2     bad", "", "cannot be reached\\x1b[2J")
            assert ("\x1b[31ma" in terminal.text) is not bool(no_colour)
            view.show(things(Thing("a", "bad", "3")))
        await terminal.until(LEAVE)
    assert "a     3     bad" in terminal.screen
    assert logging.getLogger().handlers == handlers
