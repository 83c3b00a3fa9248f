"""`--reload`: which files are watched, and by which process."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
from collections.abc import AsyncGenerator, Collection, Sequence
from pathlib import Path
from typing import Any, Final

from pymicro.cli.report import InputError, note
from pymicro.cli.service_place import ServicePlace
from pymicro.runtime.program import Program
from pymicro.runtime.supervisor import Supervisor
from pymicro.settings import config as configuration

__all__ = ["changes_below", "run_reloading", "this_program"]

# Code, and files that programs read when they start. Not .json: that is often data, and a
# program that writes some would restart itself for ever.
_SUFFIXES: Final = frozenset({".py", ".env", ".toml", ".yaml", ".yml", ".ini", ".cfg"})


def run_reloading(
    target: str,
    settings: Sequence[str],
    flags: Sequence[str],
    *,
    folders: Sequence[str],
    stop_first: bool,
    debug: bool,
) -> int:
    """Run `target` in a process of its own, and restart it after each change; return the exit code.

    Args:
        settings: Flags given before the target.
        flags: Arguments given after it.
        folders: Folders to watch besides the target's own.
        stop_first: Whether a process starts only when the previous one has ended.
        debug: Whether the process shows the traceback of an error.

    Raises:
        InputError: The file, module or folder does not exist, or watchfiles is missing.
        ConfigError: `settings` cannot be used.
    """
    watched = _folders(target, folders)
    configuration.load(argv=settings)  # a change of files would not mend wrong flags
    changes = changes_below(watched)
    start = [*this_program("--reload"), "run", *(["--debug"] if debug else [])]

    def command(descriptor: int) -> list[str]:
        return [*start, f"--supervised={descriptor}", *settings, target, "--", *flags]

    async def supervise() -> int:
        program = Program(command=command, watched=watched, stop_first=stop_first)
        return await Supervisor([program], changes, say=note).run()

    note(f"watching {', '.join(map(str, watched))}")
    return asyncio.run(supervise())


def _folders(target: str, more: Sequence[str]) -> list[Path]:
    folders = [ServicePlace.read(target).folder()]
    for name in more:
        folder = Path(name)
        if not folder.is_dir():
            raise InputError(f"--reload-dir {name}: there is no such folder")
        folders.append(folder.resolve())
    return list(dict.fromkeys(folders))


def this_program(word: str) -> list[str]:
    """The Python, its own flags, and the script or `-m pymicro` with which this process was started.

    Args:
        word: One that is on the command line if that is ours. If it is not, another program
            called our `main`, and would do so again.
    """
    if word not in sys.argv:
        return [sys.executable, "-m", "pymicro"]
    words = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    if words[-2:-1] != ["-m"]:  # a script, which must be found from another folder too
        words[-1] = os.path.abspath(words[-1])
    return [sys.executable, *words]


def changes_below(folders: Sequence[Path]) -> AsyncGenerator[Collection[Path], None]:
    """Yields the changed files in `folders` and below that matter.

    Raises:
        InputError: watchfiles is missing.
    """
    if configuration.in_pod():
        note("--reload is for development: this is a pod of Kubernetes")
    try:
        import watchfiles
    except ImportError as exc:
        raise InputError("--reload needs watchfiles: pip install 'pymicro-grpc[tools]'") from exc
    usual = watchfiles.DefaultFilter()

    def matters(change: Any, path: str) -> bool:
        file = Path(path)
        if file.suffix not in _SUFFIXES and not file.name.startswith(".env"):
            return False
        # Only the path inside the watched folder counts: what lies above a project is no reason to ignore it.
        inner = [file.relative_to(folder) for folder in folders if file.is_relative_to(folder)]
        return any(usual(change, str(way)) and "site-packages" not in way.parts for way in inner)

    async def follow() -> AsyncGenerator[Collection[Path], None]:
        async for changes in watchfiles.awatch(*folders, watch_filter=matters):
            paths = {Path(path) for _, path in changes}
            for path in paths:
                _forget(path)
            yield paths

    return follow()


def _forget(source: Path) -> None:
    """Remove what Python has cached of a file.

    Python compares size and whole seconds, so of two versions saved in one second it
    would take the first for the second.
    """
    with contextlib.suppress(NotImplementedError, OSError):
        Path(importlib.util.cache_from_source(str(source))).unlink(missing_ok=True)
