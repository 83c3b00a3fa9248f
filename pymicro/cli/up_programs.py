"""`pymicro up`: from its file and flags to the programs that run."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from pymicro.base.errors import PymicroError
from pymicro.base.printable import listed
from pymicro.cli.reload import changes_below, this_program
from pymicro.cli.report import InputError, shows_colours
from pymicro.cli.up_claims import check_claims
from pymicro.cli.up_file import OWN_NAME, WantedService, read_services
from pymicro.runtime.output import MergedLog
from pymicro.runtime.program import Program, Restarts
from pymicro.runtime.supervisor import Supervisor
from pymicro.settings import config as configuration
from pymicro.settings.file import FILE_NAME, OFF, SERVICE_VARIABLE, SettingsFile, file_here, read_file

__all__ = ["run_side_by_side"]

# Open files for each process: socket, pipe, and what tells of its end.
_FILES_EACH = 3
_FILES_BESIDE = 64


def run_side_by_side(
    file: str, settings: Sequence[str], *, only: Sequence[str], reload: bool, debug: bool
) -> int:
    """Run the services of a file until a signal, or until all have ended; return the exit code.

    Args:
        file: Its name; empty for that of the folder.
        settings: Flags for all services.
        only: The services that are wanted; empty for all.
        reload: Whether a service starts again after a change of its files.
        debug: Whether the processes show the traceback of an error.

    Raises:
        ConfigError: The file or a setting cannot be used.
        InputError: A service cannot run as it is written.
    """
    flags = configuration.parse_flags(settings)
    found = _file(file, flags.pop("config", ""))
    services = read_services(found, only)
    colours = shows_colours()
    common = _environment(found, coloured=colours)
    environments = {service.name: _environment_of(service, common, flags) for service in services}
    check_claims(found, services, environments)
    start = [*this_program("up"), "run", *(["--debug"] if debug else [])]
    programs = [_program(service, environments[service.name], start) for service in services]
    watched = list(dict.fromkeys(folder for program in programs for folder in program.watched))
    if reload and not watched:
        raise InputError(f'--reload: no service of {found.name} has files that are watched: watch = ["."]')
    changes = changes_below(watched) if reload else None
    _allow_files(sum(program.replicas for program in programs) * (2 if reload else 1))
    labels = [label for program in programs for label in program.labels()]
    numbers = {label: at for at, program in enumerate(programs) for label in program.labels()}

    async def supervise() -> int:
        output = MergedLog(
            sys.stdout.fileno(),
            [OWN_NAME, *labels],
            colours=numbers if colours else None,
            encoding=sys.stdout.encoding or "utf-8",
            terminal=sys.stdout.isatty(),
        )
        async with output:

            def say(text: str) -> None:
                output.say(OWN_NAME, text)

            say(f"{found.name}: {listed([_counted(program) for program in programs])}")
            seen = _noticing(changes, found, only, say) if changes is not None else None
            supervisor = Supervisor(programs, seen, restarts=Restarts(), output=output, say=say)
            code = await supervisor.run()
            unclean = supervisor.failed
            say(f"all have stopped, but not cleanly: {listed(unclean)}" if unclean else "all have stopped")
            return code

    sys.stdout.flush()
    return asyncio.run(supervise())


def _file(given: str, config: str) -> SettingsFile:
    """The file with the services: the argument, else that of the setting `config`, else the folder's own.

    Raises:
        ConfigError: It cannot be read.
        InputError: There is none, or two are given.
    """
    if given and config:
        raise InputError(f"FILE and --config are the same thing: {given} or {config}")
    named = given or config or os.environ.get(configuration.environment_name("config"), "").strip()
    if named and named != OFF:
        return read_file(Path(named))
    found = file_here()
    if found is None:
        raise InputError(f"there is no {FILE_NAME} in {os.getcwd()}: name a file, or write one")
    if isinstance(found, str):
        raise InputError(f"{found.partition(';')[0]}; `pymicro up {FILE_NAME}` runs it all the same")
    return found


def _environment(file: SettingsFile, *, coloured: bool) -> dict[str, str]:
    """The variables that all processes have."""
    common = dict(os.environ)
    # Python keeps what it prints into a pipe until it is much.
    common.setdefault("PYTHONUNBUFFERED", "1")
    if coloured:
        common.setdefault("FORCE_COLOR", "1")
    common[configuration.environment_name("config")] = str(file.path)
    return common


def _environment_of(
    service: WantedService, common: Mapping[str, str], flags: Mapping[str, str]
) -> dict[str, str]:
    """The variables of one service; flags have the last word, as everywhere."""
    given = {configuration.environment_name(name): text for name, text in flags.items()}
    return {**common, SERVICE_VARIABLE: service.name, **service.env, **given}


def _program(service: WantedService, environment: Mapping[str, str], start: Sequence[str]) -> Program:
    def command(descriptor: int) -> list[str]:
        if service.command:
            return list(service.command)
        return [*start, f"--supervised={descriptor}", service.run, "--", *service.args]

    return Program(
        name=service.name,
        command=command,
        speaks=bool(service.run),
        replicas=service.replicas,
        folder=service.folder,
        environment=environment,
        watched=service.watched(),
        # Nothing tells when a command is ready to take over.
        stop_first=service.stop_first or not service.run,
        grace=service.grace,
    )


async def _noticing(
    changes: AsyncGenerator[Collection[Path], None],
    file: SettingsFile,
    only: Sequence[str],
    say: Callable[[str], None],
) -> AsyncGenerator[Collection[Path], None]:
    """The changes; of one in the file itself, say that its services stay as they were."""
    async with aclosing(changes):
        async for paths in changes:
            if file.path.resolve() in paths and _services_differ(file, only):
                say(f"the services of {file.name} have changed: start pymicro up again to have them so")
            yield paths


def _services_differ(file: SettingsFile, only: Sequence[str]) -> bool:
    try:
        return read_services(read_file(file.path), only) != read_services(file, only)
    except PymicroError:
        return False  # those that start again say what is wrong with it


def _counted(program: Program) -> str:
    return program.name if program.replicas == 1 else f"{program.replicas} of {program.name}"


def _allow_files(processes: int) -> None:
    """Raise the limit of open files, if it is too low and may be raised.

    Raises:
        InputError: It may not.
    """
    needed = processes * _FILES_EACH + _FILES_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError):
        raise InputError(
            f"{processes} processes need {needed} open files, and the limit is {soft}: ulimit -n {needed}"
        ) from None
