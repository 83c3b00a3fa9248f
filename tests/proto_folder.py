"""A user's folder with protos, in which `pymicro gen` runs."""

from __future__ import annotations

import subprocess
import sys

from tests.cli_support import Commands
from tests.processes import clean_environment


class Folder:
    """A user's folder with protos in it."""

    def __init__(self, pymicro: Commands) -> None:
        self.pymicro = pymicro
        self.path = pymicro.cwd

    def write(self, files: dict[str, str], below: str = "protos") -> None:
        for name, text in files.items():
            path = self.path / below / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    async def gen(self, *argv: str) -> str:
        """Run it; what it printed. It must succeed."""
        result = await self.pymicro("gen", *argv)
        assert result.code == 0, result.err
        return result.out

    async def refused(self, *argv: str) -> str:
        """Run it; the message. Nothing may have changed."""
        before = self.content()
        result = await self.pymicro("gen", *argv)
        assert (result.code, result.out) == (2, "")
        assert self.content() == before
        assert "Traceback" not in result.err
        return result.err

    def content(self) -> dict[str, bytes | None]:
        return {
            str(path.relative_to(self.path)): path.read_bytes() if path.is_file() else None
            for path in sorted(self.path.rglob("*"))
        }

    def python(self, code: str, *path: str) -> str:
        """Run code in the folder; what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path += {path!r}\n{code}"],
            cwd=self.path,
            env=clean_environment(PYTHONDONTWRITEBYTECODE="1"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def mypy(self) -> list[str]:
        """The errors that strict mypy finds in the whole folder."""
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "."],
            cwd=self.path,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return [line for line in done.stdout.splitlines() if ": error:" in line]
