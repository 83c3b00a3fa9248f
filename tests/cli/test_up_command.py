"""`pymicro up` and its file: which one, what is in it, and what is said of a bad one."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from pymicro import ConfigError
from pymicro.cli.report import InputError
from pymicro.cli.up_programs import run_side_by_side
from tests.processes import Processes, children, ended, mapped_files, seen, until
from tests.up_folder import APP, GREETER, SERVING, TWO, Folder, greet, own


@pytest.fixture
def folder(tmp_path: Path, processes: Processes) -> Folder:
    path = tmp_path / "shop"
    path.mkdir()
    return Folder(path, processes)


# Settings


SHOWS = (
    APP
    + """
@service.on_start
def show():
    for name in ("zone", "log_level", "register_ttl", "server_version"):
        print(name, repr(getattr(service.config, name)), service.config.source(name), sys.argv[1:])
    print(os.getcwd(), os.environ.get("WORD"), os.environ.get("NUMBER"))
"""
)


async def test_services_have_the_settings_of_the_file_and_their_own(folder: Folder, tmp_path: Path) -> None:
    (folder.path / "sub").mkdir()
    folder.write("sub/server.py", SHOWS)
    text = (
        '[settings]\nzone = "file"\nlog_level = "debug"\nregister_ttl = 7\n'
        '[services.greeter]\nrun = "server.py"\ncwd = "sub"\nargs = ["--server-version", "9"]\n'
        'env = { WORD = "a b", NUMBER = 3 }\n[services.greeter.settings]\nregister_ttl = 8\n'
    )
    path = folder.write("pymicro.toml", text)
    # From another folder, with a variable and a flag above the file.
    process = folder.processes.pymicro(
        "up", str(path), "--zone", "flag", cwd=tmp_path, **folder.environment, MICRO_LOG_LEVEL="info"
    )
    argv = "['--server-version', '9']"
    for line in (
        f"zone 'flag' environment MICRO_ZONE {argv}",
        f"log_level 'info' environment MICRO_LOG_LEVEL {argv}",
        rf"register_ttl 8 {path}:11 {argv}",
        f"server_version '9' flag --server-version {argv}",
        f"{folder.path / 'sub'} a b 3",
    ):
        await seen(process, rf"^greeter \| {re.escape(line)}$")
    assert process.stop() == 0


async def test_only_some_services_are_started(folder: Folder) -> None:
    text = "".join(f'[services.{name}]\ncommand = ["true"]\n' for name in "abc")
    text += '[services.d]\ncommand = ["no-such-program"]\n'
    process = folder.up(text, "--only", "c", "--only=a")
    assert await ended(process) == 0
    assert sorted(own(process)) == ["a: has ended", "all have stopped", "c: has ended", "pymicro.toml: a, c"]


async def test_the_file_is_that_of_the_folder_or_the_one_that_is_named(folder: Folder) -> None:
    folder.write("other.toml", '[services.b]\ncommand = ["true"]\n')
    text = '[services.a]\ncommand = ["true"]\n'
    for flags, env, name in (
        ((), {}, "pymicro.toml: a"),
        (("other.toml",), {}, "other.toml: b"),
        (("--config", "other.toml"), {}, "other.toml: b"),
        ((), {"MICRO_CONFIG": "other.toml"}, "other.toml: b"),
        (("pymicro.toml",), {"MICRO_CONFIG": "other.toml"}, "pymicro.toml: a"),
    ):
        process = folder.up(text, *flags, **env)
        assert await ended(process) == 0
        assert own(process)[0] == name


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_the_supervisor_never_loads_grpc(folder: Folder, registry_folder: str) -> None:
    process = folder.up(GREETER, "--reload")
    await seen(process, SERVING)
    child = (await greet(registry_folder)).pid
    assert "cygrpc" in mapped_files(child)
    assert "cygrpc" not in mapped_files(process.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_a_hundred_processes_need_no_more_files_than_a_user_may_have(folder: Folder) -> None:
    text = '[services.a]\ncommand = ["sleep", "600"]\nreplicas = 100\n'
    folder.write("pymicro.toml", text)
    program = f"ulimit -S -n 200; exec {sys.executable} -m pymicro up"
    process = folder.processes.start("bash", "-c", program, cwd=folder.path, **folder.environment)

    await until(lambda: len(children(process.pid)) == 101)  # with the guard
    assert len(os.listdir(f"/proc/{process.pid}/fd")) < 330
    process.signal(signal.SIGINT)
    assert await ended(process) == 0
    assert own(process) == ["pymicro.toml: 100 of a", "stopping", "all have stopped"]


async def test_a_limit_of_files_that_is_too_low_is_named(folder: Folder) -> None:
    folder.write("pymicro.toml", '[services.a]\ncommand = ["sleep", "600"]\nreplicas = 100\n')
    program = f"ulimit -n 200; exec {sys.executable} -m pymicro up"
    process = folder.processes.start("bash", "-c", program, cwd=folder.path, **folder.environment)
    assert await ended(process) == 2
    assert process.stderr == [
        "pymicro up: 100 processes need 364 open files, and the limit is 200: ulimit -n 364"
    ]


# Bad input


COMMAND = 'command = ["true"]'
A = f"[services.a]\n{COMMAND}\n"
BAD: dict[str, tuple[str, str]] = {
    "no services": (
        "[settings]\n",
        'pymicro.toml has no services: write [services.greeter] with run = "server.py"',
    ),
    "empty": ("", "pymicro.toml has no services"),
    "neither": ("[services.a]\nreplicas = 2", "pymicro.toml:1: the service 'a' has neither run nor command"),
    "both": (
        f'[services.a]\nrun = "server.py"\n{COMMAND}',
        "pymicro.toml:1: the service 'a' has both run and",
    ),
    "an unknown key": (f"{A}replica = 2", "pymicro.toml:3: a service has no 'replica'; did you"),
    "another key": (f"{A}xyz = 2", "a service has no 'xyz'; it may have: run, command, args,"),
    "compose's word": (f"{A}environment = {{}}", "a service has no 'environment'; write env"),
    "flags in run": ('[services.a]\nrun = "server.py --zone x"', "; what follows the program goes into args"),
    "a long name": (
        f'[services.a]\nrun = "{"x" * 5000}.py"',
        "pymicro.toml:2: run of a: there is no file xxx",
    ),
    "a long folder": (f'{A}cwd = "{"x" * 5000}"', "pymicro.toml:3: cwd of a: there is no folder xxx"),
    "a long program": (f'[services.a]\ncommand = ["./{"x" * 5000}"]', "command of a: there is no file ./xxx"),
    "none": (f"{A}replicas = 0", "pymicro.toml:3: replicas of a: 0 is not between 1 and 100"),
    "many": (f"{A}replicas = 10_000", "replicas of a: 10000 is not between 1 and 100"),
    "too many": (
        "".join(f"[services.a{n}]\n{COMMAND}\nreplicas = 100\n" for n in range(3)),
        "pymicro.toml wants 300 processes, and 200 is the most",
    ),
    "a text": (f'{A}replicas = "2"', "replicas of a: '2' is no whole number"),
    "a truth": (f"{A}replicas = true", "replicas of a: True is no whole number"),
    "run no text": ("[services.a]\nrun = 3", "pymicro.toml:2: run of a: 3 is no text"),
    "run empty": ('[services.a]\nrun = ""', "pymicro.toml:2: run of a: it is empty"),
    "command a text": (
        '[services.a]\ncommand = "ls -l"',
        "command of a: 'ls -l' is no list of texts, such as",
    ),
    "command empty": ("[services.a]\ncommand = []", "command of a: it names no program"),
    "command numbers": ("[services.a]\ncommand = [1]", "command of a: 1 is no text"),
    "command NUL": ('[services.a]\ncommand = ["a\\u0000"]', "has a NUL in it"),
    "env a text": (f'{A}env = "A=1"', "env of a: 'A=1' is no table of variables, such as"),
    "env a truth": (f"{A}env.A = true", "pymicro.toml:3: env of a: A: True is no text"),
    "env a name": (f'{A}env = {{ "A=" = "" }}', "env of a: 'A=' is no name of a variable"),
    "no folder": (f'{A}cwd = "nowhere"', "pymicro.toml:3: cwd of a: there is no folder nowhere in"),
    "no watch": (f'{A}watch = ["nowhere"]', "pymicro.toml:3: watch of a: there is no folder"),
    "no grace": (f'{A}grace = "soon"', "pymicro.toml:3: grace of a: 'soon' is no duration"),
    "grace of run": (f'{GREETER}grace = "5s"', "pymicro.toml:3: grace of greeter goes with command: "),
    "args of command": (f"{A}args = []", "pymicro.toml:3: args of a goes with run: "),
    "stop_first": (f"{GREETER}stop_first = 1", "stop_first of greeter: 1 is neither true nor false"),
    "no file": (
        '[services.a]\nrun = "sever.py"',
        "pymicro.toml:2: run of a: there is no file sever.py; did you mean 'serv",
    ),
    "no module": (
        '[services.a]\nrun = "no.such"',
        "pymicro.toml:2: run of a: there is no module no, looking from",
    ),
    "no place": (
        '[services.a]\nrun = "a b"',
        "pymicro.toml:2: run of a: 'a b' is neither a file (path.py) nor a",
    ),
    "a folder": ('[services.a]\nrun = "./"', "run of a: ./ is a folder"),
    "no program": (
        '[services.a]\ncommand = ["no-such"]',
        "pymicro.toml:2: command of a: there is no program 'no-such'",
    ),
    "no program here": (
        '[services.a]\ncommand = ["./no"]',
        "pymicro.toml:2: command of a: there is no file ./no in",
    ),
    "no executable": (
        '[services.a]\ncommand = ["./server.py"]',
        "./server.py is no program: it is not executable",
    ),
    "a name": (
        f'[services."a b"]\n{COMMAND}',
        "pymicro.toml:1: 'a b' is no name for a service: it has letters",
    ),
    "a hostile name": (
        f'[services."a\\u001b"]\n{COMMAND}',
        "pymicro.toml:1: 'a\\x1b' is no name for a service",
    ),
    "our name": (f"[services.up]\n{COMMAND}", "pymicro.toml:1: 'up' is what pymicro up calls itself"),
    "a replica's name": (
        f'{A}replicas = 2\n[services."a.2"]\n{COMMAND}',
        "pymicro.toml:4: 'a.2' is also what a replica of 'a' is called",
    ),
    "no table": ("[services]\na = 1", "pymicro.toml:2: 'a' is no table"),
    "settings no table": (f"{A}settings = 1", "settings of a: 1 is no table of settings"),
    "a wrong setting": (
        f'{A}settings.registy = "x"',
        "settings of a: pymicro.toml:3: there is no setting 'registy'; did you mean 'registry'?",
    ),
    "a wrong common one": (
        "[settings]\nregisty = 1\n" + GREETER,
        "pymicro.toml:2: there is no setting 'registy'",
    ),
    "one port twice": (
        f'[settings]\nserver_address = "127.0.0.1:7000"\n{GREETER}[services.b]\nrun = "server.py"\n',
        "pymicro.toml:5: b wants the port of greeter: server_address 127.0.0.1:7000 (pymicro.toml:2), s",
    ),
    "one port for two": (
        f'{TWO}settings.admin_address = ":7000"',
        "pymicro.toml:1: greeter has 2 replicas, and only one of them could have admin_address :7000 (py",
    ),
    "one id for two": (
        f'{TWO}settings.server_id = "x"',
        "greeter has 2 replicas, and only one of them could have server_id x (pymicro.toml:4)",
    ),
    "one port in flags": (
        f'{GREETER}args = ["--server-address=0.0.0.0:7000"]\n[services.b]\ncommand = ["true"]\n'
        'env.MICRO_SERVER_ADDRESS = "127.0.0.1:7000"\n',
        "b wants the port of greeter: server_address 127.0.0.1:7000 (environment MICRO_SERVER_ADDRESS)",
    ),
    "no TOML": (
        "[services.a]\ncommand = [",
        "pymicro.toml:2: this is no TOML: Invalid value (at end of document)",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named_before_anything_starts(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    folder.write("pymicro.toml", text)
    monkeypatch.chdir(folder.path)
    with pytest.raises((InputError, ConfigError)) as caught:
        run_side_by_side("", (), only=(), reload=False, debug=False)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 600


async def test_bad_input_is_one_message_and_ends_it_with_2(folder: Folder) -> None:
    assert await folder.refused(BAD["none"][0]) == BAD["none"][1]
    assert await folder.refused(BAD["no TOML"][0]) == BAD["no TOML"][1]


async def test_a_file_that_is_not_there_is_named(folder: Folder) -> None:
    assert await folder.refused("", "nowhere.toml") == "there is no file nowhere.toml"
    assert "are the same thing" in await folder.refused("", "a.toml", "--config", "b.toml")
    assert await folder.refused(f"[services.abc]\n{COMMAND}", "--only", "abd") == (
        "--only: pymicro.toml has no service 'abd'; did you mean 'abc'?"
    )
    assert "has files that are watched" in await folder.refused(A, "--reload")
    process = folder.processes.pymicro("up", cwd=folder.path / "..")
    assert await ended(process) == 2
    assert process.stderr[0].startswith("pymicro up: there is no pymicro.toml in ")
    (folder.path / "pymicro.toml").chmod(0o666)
    process = folder.processes.pymicro("up", cwd=folder.path)
    assert await ended(process) == 2
    assert process.stderr == [
        "pymicro up: pymicro.toml is not read, because everybody may write it; "
        "`pymicro up pymicro.toml` runs it all the same"
    ]
