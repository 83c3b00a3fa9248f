"""Pictures of the commands as they look on a terminal of 80 columns, light and dark.

    python -m scripts.pictures OUT

It runs the commands in a pseudo-terminal, on two greeters that it starts, and draws what
they print. `make pictures` writes docs/terminal. Needs matplotlib, of the group `bench`,
for its font and for Pillow.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shlex
import shutil
import signal
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROWS = 80, 50
# Seconds a command may take.
PATIENCE = 60.0
LEAVE, ERASE = "\x1b[?1049l", "\x1b[2K"

# Pixels.
SIZE, MARGIN, LEADING = 17, 18, 1.3


@dataclass(frozen=True)
class Theme:
    """The colours of a terminal.

    Attributes:
        named: Colours by their number on a terminal.
    """

    ground: str
    text: str
    dim: str
    named: dict[int, str]


THEMES = {
    "light": Theme(
        "#ffffff",
        "#1f2328",
        "#6e7781",
        {1: "#cf222e", 2: "#1a7f37", 3: "#9a6700", 6: "#1b7c83"},
    ),
    "dark": Theme(
        "#0d1117",
        "#e6edf3",
        "#8b949e",
        {1: "#ff7b72", 2: "#3fb950", 3: "#d29922", 6: "#39c5cf"},
    ),
}

BROKEN = """
from greeter.v1 import greeter_pb2 as pb
from pymicro import Service, handler

PRICES = {"tea": 3}


class Shop:
    @handler("SayHello")
    async def price(self, request: pb.HelloRequest) -> pb.HelloReply:
        return pb.HelloReply(message=f"{PRICES[request.name]} euros")


service = Service("shop", version="0.3.1")
service.add(Shop(), pb.DESCRIPTOR.services_by_name["Greeter"], partial=True)
"""

# What is typed for each picture.
SCENES: dict[str, Sequence[str]] = {
    "look": (
        "pymicro services",
        "pymicro nodes greeter -o wide",
        "pymicro health greeter",
        "pymicro list greeter -a",
    ),
    "make": ("pymicro new tea", "pymicro wait greeter --nodes 2", "pymicro describe greeter HelloRequest"),
    "doctor": ("pymicro doctor greeter", "pymicro doctor greter"),
    "call": (
        """pymicro call greeter SayHello '{"name": "Ada"}'""",
        """pymicro call greeter SayHelo '{"name": "Ada"}'""",
        """pymicro call shop SayHello '{"name": "coffee"}'""",
    ),
    "top": ("pymicro top greeter --count 2",),
    "bench": ("""pymicro bench greeter SayHello '{"name": "Ada"}' -d 2""",),
}

# For the picture of `up`.
TOGETHER = """
[services.greeter]
run = "server.py"
replicas = 2

[services.shop]
run = "shop.py"
"""

# What goes on while `top` looks.
LOAD = """pymicro bench greeter SayHello '{"name": "Ada"}' -d 8 -c 4 --rate 300"""


class Terminal:
    """A program in a pseudo-terminal."""

    def __init__(self, line: str, folder: Path, environ: dict[str, str]) -> None:
        self.line = line
        self.text = ""
        self.pid, self._end = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe("sh", ["sh", "-c", f"exec {line}"], environ)
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))

    def read(self, until: str = "", times: int = 1) -> str:
        """All that it prints, to its end, or until it has printed a text so many times.

        Raises:
            TimeoutError: It takes too long.
        """
        end = time.monotonic() + PATIENCE
        while not until or self.text.count(until) < times:
            ready, _, _ = select.select([self._end], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{self.line} takes longer than {PATIENCE:.0f} s:\n{self.text}")
            try:
                more = os.read(self._end, 1 << 16)
            except OSError:  # Linux's way to say that the other end is closed
                more = b""
            if not more:
                break
            self.text += more.decode(errors="replace")
        return self.text

    def stop(self) -> str:
        """End it as Ctrl-C does; all that it printed."""
        os.kill(self.pid, signal.SIGINT)
        text = self.read()
        os.waitpid(self.pid, 0)
        return text


@contextmanager
def services(folder: Path, environ: dict[str, str]) -> Iterator[Terminal]:
    """Two greeters and a shop that has a fault; gives the first greeter."""
    shutil.copytree(ROOT / "examples/greeter", folder / "work")
    (folder / "work/shop.py").write_text(BROKEN)
    with ExitStack() as stack:
        started = []
        for line in (
            "pymicro run server.py",
            "pymicro run server.py",
            "pymicro run shop.py --debug-errors=on",
        ):
            terminal = Terminal(line, folder / "work", environ)
            stack.callback(lambda one=terminal: one.text.endswith("stopped\r\n") or one.stop())
            started.append(terminal)
            terminal.read(until=", registered\r\n")
        yield started[0]


def show(out: Path) -> None:
    """Write all pictures."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pymicro-pictures-") as name:
        folder = Path(name)
        environ = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "MICRO_REGISTRY_ADDRESS": str(folder / "nodes"),
        }
        with services(folder, environ) as greeter:
            for scene, lines in SCENES.items():
                typed = []
                load = Terminal(LOAD, folder / "work", environ) if scene == "top" else None
                for line in lines:
                    terminal = Terminal(line, folder / "work", environ)
                    text = terminal.read()
                    os.waitpid(terminal.pid, 0)
                    # What was drawn before, and drawn over.
                    for end in (LEAVE, ERASE):
                        text = text.rpartition(end)[2]
                    typed.append((line, text.replace(str(folder), "/tmp")))
                draw_all(out, scene, typed)
                if load is not None:
                    load.read()
                    os.waitpid(load.pid, 0)
            text = greeter.stop().replace(str(folder), "/tmp")
        draw_all(out, "run", [(greeter.line, text)])
        (folder / "work/pymicro.toml").write_text(TOGETHER)
        up = Terminal("pymicro up", folder / "work", environ)
        up.read(until=", registered", times=3)
        draw_all(out, "up", [(up.line, up.stop())])


def draw_all(out: Path, scene: str, typed: Sequence[tuple[str, str]]) -> None:
    """Draw a scene in each theme."""
    for name, theme in THEMES.items():
        path = out / f"{scene}-{name}.png"
        draw(path, typed, theme)
        print(f"wrote {path} ({path.stat().st_size // 1000} kB)")


def draw(path: Path, typed: Sequence[tuple[str, str]], theme: Theme) -> None:
    """Draw commands with what they printed."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont
    from rich.console import Console
    from rich.segment import Segment
    from rich.text import Text

    fonts = Path(matplotlib.get_data_path()) / "fonts/ttf"
    plain, bold = (
        ImageFont.truetype(str(fonts / f"DejaVuSansMono{kind}.ttf"), SIZE) for kind in ("", "-Bold")
    )
    console = Console(width=COLUMNS, force_terminal=True, color_system="truecolor")
    lines: list[list[Segment]] = []
    for line, text in typed:
        if lines:
            lines.append([])
        prompt = Text.assemble(("$ ", "dim"), (line, "bold"))
        # What a terminal would wrap is wrapped here.
        for part in (prompt, *(Text.from_ansi(one) for one in text.replace("\r", "").splitlines())):
            part.rstrip()
            lines += console.render_lines(part, pad=False, new_lines=False)
    width = plain.getlength("x")
    height = round(SIZE * LEADING)
    image = Image.new(
        "RGB", (round(width * COLUMNS) + 2 * MARGIN, height * len(lines) + 2 * MARGIN), theme.ground
    )
    pen: Any = ImageDraw.Draw(image)
    for row, segments in enumerate(lines):
        column = 0
        for segment in segments:
            style = segment.style
            number = style.color.number if style and style.color else None
            colour = theme.named.get(number or 0, theme.dim if style and style.dim else theme.text)
            pen.text(
                (MARGIN + column * width, MARGIN + row * height),
                segment.text,
                fill=colour,
                font=bold if style and style.bold else plain,
            )
            column += segment.cell_length
    image.quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m scripts.pictures OUT  (not {shlex.join(sys.argv[1:])})")
    show(Path(sys.argv[1]))
