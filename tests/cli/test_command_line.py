from __future__ import annotations

import os
import subprocess
import sys

import pytest

import pymicro as package
from tests.cli_support import Commands, Result

COMMANDS = [
    "run",
    "up",
    "call",
    "bench",
    "services",
    "nodes",
    "list",
    "describe",
    "health",
    "wait",
    "top",
    "doctor",
    "new",
    "gen",
    "manifest",
    "config",
    "completion",
]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
async def test_help_fits_80_columns(pymicro: Commands, command: list[str]) -> None:
    result = await pymicro(*command, "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"Usage: {' '.join(['pymicro', *command])} ")
    assert max(len(line) for line in result.out.splitlines()) <= 80


async def test_every_setting_is_a_flag_of_every_command(pymicro: Commands) -> None:
    run, call = [(await pymicro(command, "--help")).out for command in ("run", "call")]
    for flag in ("--registry-address", "--balancer", "--client-request-timeout", "--log-level"):
        assert flag in run
        assert flag in call
    assert call.index("--timeout") < call.index("--registry")  # the command's own come first
    assert "--server-address" in run
    assert "--server-address" not in call
    for ignored in ("--broker", "--runtime", "--client-pool-size"):
        assert ignored not in run
    # What is not shown is accepted all the same.
    flags = ("--broker=x", "--server_address", "127.0.0.1:0", "--client_pool_ttl=1m")
    assert (await pymicro("services", *flags)).code == 0


async def test_no_arguments_show_the_help(pymicro: Commands) -> None:
    result = await pymicro()
    assert result.code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.out


async def test_the_version_is_shown(pymicro: Commands) -> None:
    assert await pymicro("--version") == Result(0, f"pymicro {package.__version__}\n", "")


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["nods"], "pymicro: there is no command 'nods'; did you mean 'nodes'?\nTry 'pymicro --help'.\n"),
        (
            ["zzz"],
            f"pymicro: there is no command 'zzz'; there are: {', '.join(COMMANDS)}\nTry 'pymicro --help'.\n",
        ),
        (["nodes"], "pymicro nodes: Missing argument 'SERVICE'.\nTry 'pymicro nodes --help'.\n"),
        (["config", "--drain-delay", "soon"], "pymicro config: --drain-delay: 'soon' is no duration "),
        *(
            (
                [command, "", *more],
                f"pymicro {command}: Invalid value for '{argument}': it is empty, and no service is",
            )
            for argument, command, *more in (
                ("SERVICE", "call", "A.B"),
                ("SERVICE", "bench", "A.B"),
                ("SERVICE", "nodes"),
                ("SERVICE", "list"),
                ("SERVICE", "describe"),
                ("SERVICE", "health"),
                ("SERVICE", "wait"),
                ("[SERVICE]", "top"),
                ("[SERVICE]", "doctor"),
            )
        ),
        (["doctor", " "], "pymicro doctor: Invalid value for '[SERVICE]': it is empty"),
        (["wait", "a\nb"], "pymicro wait: Invalid value for 'SERVICE': 'a\\nb' is no name of a service\n"),
        (["nodes", "x" * 9999], "pymicro nodes: Invalid value for 'SERVICE': 'xxx"),
        (["config", "extra"], "pymicro config: Got unexpected extra argument (extra)\n"),
    ],
)
async def test_bad_input_is_one_message_and_exit_2(pymicro: Commands, argv: list[str], error: str) -> None:
    result = await pymicro(*argv)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(error)
    assert "Traceback" not in result.err


async def test_an_unknown_flag_suggests_the_near_one(pymicro: Commands) -> None:
    result = await pymicro("nodes", "greeter", "--registri", "local")
    assert result.code == 2
    assert result.err == (
        "pymicro nodes: unknown flag --registri; did you mean --registry?\nTry 'pymicro nodes --help'.\n"
    )


async def test_config_shows_values_and_where_they_come_from(pymicro: Commands) -> None:
    flags = ("--registry_address=a=h:1", "--registry-address", "b=h:2", "--client-request-timeout", "1500ms")
    result = await pymicro("config", *flags, MICRO_REGISTRY="static", MICRO_REGISTRI="x")
    assert result.code == 0
    rows = [line.split() for line in result.out.splitlines()]
    assert ["registry", "static", "environment", "MICRO_REGISTRY"] in rows
    assert ["registry_address", "a=h:1,b=h:2", "flag", "--registry-address"] in rows
    assert ["client_request_timeout", "1.5s", "flag", "--client-request-timeout"] in rows
    assert ["balancer", "p2c", "default"] in rows
    assert result.err == "MICRO_REGISTRI is no setting; did you mean 'MICRO_REGISTRY'?\n"


async def test_config_shows_the_line_of_a_file_and_says_which_file_it_does_not_read(
    pymicro: Commands,
) -> None:
    path = pymicro.cwd / "pymicro.toml"
    path.write_text('[settings]\nzone = "b"\n')
    path.chmod(0o644)
    result = await pymicro("config")
    rows = [line.split(maxsplit=2) for line in result.out.splitlines()]
    assert ["zone", "b", "pymicro.toml:2"] in rows
    assert ["config", str(path), "working folder"] in rows
    assert result.err == ""
    path.chmod(0o666)
    result = await pymicro("config")
    assert ["zone", "-", "default"] in [line.split(maxsplit=2) for line in result.out.splitlines()]
    assert result.err.startswith("pymicro.toml is not read, because everybody may write it; MICRO_CONFIG=")


async def test_the_commands_do_not_take_the_level_of_their_log_from_a_file(pymicro: Commands) -> None:
    path = pymicro.cwd / "pymicro.toml"
    path.write_text('[settings]\nlog_level = "debug"\n')
    path.chmod(0o644)
    assert (await pymicro("services")).err.count("\n") <= 1
    assert "file with settings" in (await pymicro("services", MICRO_LOG_LEVEL="debug")).err


async def test_a_flag_that_is_empty_is_passed_on_as_such(pymicro: Commands) -> None:
    result = await pymicro("config", "--server-id=--odd", "--server-name", "")
    assert ["server_id", "--odd", "flag", "--server-id"] in [line.split() for line in result.out.splitlines()]
    assert ["server_name", "-", "flag", "--server-name"] in [line.split() for line in result.out.splitlines()]


def test_a_closed_output_is_no_traceback() -> None:
    command = f"{sys.executable} -m pymicro config"
    done = subprocess.run(["sh", "-c", f"{command} >&-"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(["sh", "-c", f"{command} --nope 2>&-"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("command", ["config", "--version", "services"])
def test_a_full_disk_is_one_sentence(command: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pymicro", command, *(["-o", "json"] if command == "services" else [])],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.endswith(b": the output cannot be written: No space left on device\n")
    assert done.stderr.count(b"\n") == 1


def test_an_interrupt_while_it_is_imported_is_no_traceback() -> None:
    program = """
import sys

class Interrupts:
    def find_spec(self, name, *_):
        if name == "click":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
from pymicro.cli import main
main(["nodes"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_help_imports_no_grpc() -> None:
    code = (
        "import sys\n"
        "from pymicro.cli import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n"
        "    heavy = {'grpc', 'google.protobuf', 'kubernetes_asyncio', 'uvloop'} & set(sys.modules)\n"
        "    print('loaded:', sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded: []\n")


def test_the_console_script_is_the_same_program() -> None:
    (script,) = (
        entry
        for entry in __import__("importlib.metadata").metadata.entry_points(group="console_scripts")
        if entry.name == "pymicro"
    )
    from pymicro.cli import main

    assert script.load() is main
