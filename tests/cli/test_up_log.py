"""The log of `pymicro up`: what programs print, in a pipe and on a terminal."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.processes import PATIENCE, Processes, clean_environment, ended, nobody_left, seen, until
from tests.up_folder import SERVING, TWO, Folder, free, greet, lines, nodes, own


@pytest.fixture
def folder(tmp_path: Path, processes: Processes) -> Folder:
    path = tmp_path / "shop"
    path.mkdir()
    return Folder(path, processes)


async def test_services_start_in_any_order_and_their_log_is_one(folder: Folder, registry_folder: str) -> None:
    process = folder.up(
        f'{TWO}[services.echo]\ncommand = ["sh", "-c", "echo out; echo err >&2; exec sleep 600"]\n'
    )
    for _ in range(2):
        await seen(process, SERVING)
    await nodes(registry_folder, 2)
    assert (await greet(registry_folder)).message == "one"
    await until(lambda: lines(process, "echo") == ["out", "err"])
    process.signal(signal.SIGINT)
    assert await ended(process) == 0
    await nobody_left(process)
    assert process.stderr == []
    assert own(process) == ["pymicro.toml: 2 of greeter, echo", "stopping", "all have stopped"]
    # The names stand in one column, and no line is without.
    assert {line[:12] for line in process.stdout} == {
        "up        | ",
        "greeter.1 | ",
        "greeter.2 | ",
        "echo      | ",
    }
    assert not any("\x1b" in line for line in process.stdout)
    for name in ("greeter.1", "greeter.2"):
        assert sum("SIGTERM received" in line for line in lines(process, name)) == 1
        assert lines(process, name)[-1].endswith("greeter has stopped")


ODD = r"""
import os, sys, time
write = sys.stdout.buffer.write
write(b"\xff\xfe no text\n")
write(b"\x1b[2J\x1b]0;title\x07\x1b[31mred\x1b[0m \x1b[8mhidden\x1b[0m\x7f\n")
write("\u202egnol \u2028 end\n".encode())
write(b"10%\r50%\rdone\r\n")
write(b"\n")
write("ö".encode() * 500_000 + b"\n")
write(b"no end")
"""


async def test_nothing_that_a_program_prints_breaks_the_log(folder: Folder) -> None:
    folder.write("odd.py", ODD)
    process = folder.up('[services.odd]\ncommand = ["PYTHON", "odd.py"]\n')
    assert await ended(process) == 0
    *short, long, last = lines(process, "odd")
    assert short == [
        "\\xff\\xfe no text",
        "\\x1b[2J\\x1b]0;title\\x07red hidden\\x7f",
        "\\u202egnol \\u2028 end",
        "done",
        "",
    ]
    assert re.fullmatch(r"ö{32767}… \(and 934466 bytes more\)", long)
    assert last == "no end"
    assert own(process)[-2:] == ["odd: has ended", "all have stopped"]


async def test_a_line_without_an_end_is_shown_while_its_program_waits(folder: Folder) -> None:
    process = folder.up('[services.slow]\ncommand = ["sh", "-c", "printf begun; exec sleep 600"]\n')
    await seen(process, r"^slow \| begun$")
    assert process.stop() == 0


class Screen:
    """A terminal in which `pymicro up` runs."""

    def __init__(self, folder: Folder, **env: str) -> None:
        self.ours, theirs = pty.openpty()
        self.shown = b""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _IN_TERMINAL, str(theirs)],
            cwd=folder.path,
            env={**folder.processes.environment, **folder.environment, "TERM": "xterm", **env},
            pass_fds=[theirs],
        )
        os.close(theirs)
        os.set_blocking(self.ours, False)

    def read(self) -> bytes:
        """All that has been shown."""
        try:
            while data := os.read(self.ours, 1 << 16):
                self.shown += data
        except OSError as exc:  # EIO: nobody has the terminal any more
            if exc.errno not in (errno.EAGAIN, errno.EIO):
                raise
        return self.shown

    async def seen(self, pattern: bytes) -> None:
        await until(lambda: re.search(pattern, self.read()))

    async def ended(self) -> int:
        """The exit code, all that was shown read."""

        def over() -> bool:
            self.read()  # otherwise it would wait for us
            return self._process.poll() is not None

        await until(over)
        self.read()
        os.close(self.ours)
        return self._process.wait()

    async def close(self) -> None:
        """Close the terminal, as with its window, and wait for the end."""
        os.close(self.ours)
        try:
            await asyncio.to_thread(self._process.wait, PATIENCE)
        finally:
            self._process.kill()  # nothing, if it has ended
            self._process.wait()


_IN_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
terminal = int(sys.argv[1])
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
for number in (0, 1, 2):
    os.dup2(terminal, number)
os.execv(sys.executable, [sys.executable, "-m", "pymicro", "up"])
"""
COLOURED = r"""
import os, signal, sys
print("\x1b[31mred\x1b[0m \x1b[41mback", flush=True)
try:
    open("/dev/tty")
except OSError as exc:
    print("no terminal:", exc.errno, flush=True)
print("input:", sys.stdin.read() == "", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("no_colour", ["", "1"])
async def test_on_a_terminal_names_have_colours_unless_nobody_wants_them(
    folder: Folder, no_colour: str
) -> None:
    folder.write("coloured.py", COLOURED)
    folder.write(
        "pymicro.toml",
        '[services.a]\ncommand = ["PYTHON", "coloured.py"]\n[services.b]\ncommand = ["true"]\n',
    )
    screen = Screen(folder, NO_COLOR=no_colour)
    await screen.seen(b"input: True")  # the terminal is not theirs: neither its keys nor its name
    await screen.seen(b"b: has ended")
    assert b"no terminal: %d" % errno.ENXIO in screen.shown
    os.write(screen.ours, b"\x03")
    assert await screen.ended() == 0
    # What a program writes to colour its text is passed on, but not into the next line.
    text = screen.shown
    if no_colour:
        assert b"\x1b" not in text
        assert b"a  | red back\r\n" in text
    else:
        assert b"\x1b[36ma  | \x1b[0m\x1b[31mred\x1b[0m back\x1b[0m\r\n" in text
        assert b"\x1b[1mup | b: has ended\x1b[0m\r\n" in text
    # Our line stands where the terminal has written ^C.
    assert re.search(rb"\^C\r(\x1b\[1m)?up \| stopping(\x1b\[0m)?\r\n", text)
    assert re.search(rb"all have stopped(\x1b\[0m)?\r\n$", text)


async def test_when_the_terminal_goes_all_stop(folder: Folder) -> None:
    lock = folder.path / "lock"
    folder.write("pymicro.toml", f'[services.a]\ncommand = ["PYTHON", "parent.py", "{lock}", "stay"]\n')
    screen = Screen(folder)
    await screen.seen(b"holding")
    await screen.close()
    assert free(lock)


async def test_when_nobody_reads_the_log_all_stop(folder: Folder) -> None:
    lock = folder.path / "lock"
    folder.write(
        "pymicro.toml", f'[services.a]\ncommand = ["PYTHON", "stubborn.py", "{lock}"]\ngrace = "0"\n'
    )
    program = f"{sys.executable} -m pymicro up | grep -m 1 holding; echo ${{PIPESTATUS[0]}}"
    process = folder.processes.start("bash", "-c", program, cwd=folder.path, **folder.environment)
    await seen(process, "holding")
    assert not free(lock)
    # It learns of it with its next line.
    os.kill(int(re.findall(r"holding (\d+)", "\n".join(process.stdout))[0]), signal.SIGTERM)
    assert (await seen(process, r"^\d+$"))[0] == "141"
    assert free(lock)


def waiting(descriptor: int) -> int:
    """How many bytes a pipe holds."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


async def test_a_log_that_nobody_reads_holds_no_stop(folder: Folder) -> None:
    folder.write("pymicro.toml", '[services.a]\ncommand = ["sh", "-c", "exec yes"]\n')
    ours, theirs = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pymicro", "up",
        cwd=folder.path, env={**clean_environment(), **folder.environment}, stdout=theirs,
    )  # fmt: skip
    os.close(theirs)
    try:
        await until(lambda: waiting(ours) >= 1 << 14)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    finally:
        os.close(ours)
