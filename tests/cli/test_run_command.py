from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
from pathlib import Path

import pytest

from tests.cli_support import PATIENCE, Commands, next_line

ONE = """
import sys
from pymicro import Service
service = Service("one", version="3.1")
print(__name__, sys.argv, sys.path[0])
if __name__ == "__main__":
    raise SystemExit("guarded code ran")
"""


@pytest.fixture
def app(pymicro: Commands) -> Path:
    path = pymicro.cwd / "one.py"
    path.write_text(ONE)
    return path


async def test_a_service_runs_until_sigterm(pymicro: Commands, app: Path) -> None:
    async with pymicro.started("run", "one.py") as process:
        assert "one serves no method" in await next_line(process.stderr)
        line = await next_line(process.stderr)
        assert re.search(r"one 3\.1 on 127\.0\.0\.1:\d+, registered$", line)
        assert len(line) < 80
        result = await pymicro("nodes", "one")
        assert result.out.splitlines()[1].endswith(" 3.1")
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        assert process.returncode == 0
    assert (await pymicro("nodes", "one")).code == 1


async def test_a_file_sees_itself_as_if_it_were_run(pymicro: Commands, app: Path, tmp_path: Path) -> None:
    target = os.path.join("work", "one.py")
    result = await pymicro("run", target, "--log-level", "debug", "--print-config", cwd=tmp_path)
    assert result.code == 0
    first, *config = result.out.splitlines()
    assert first == f"one ['{target}', '--log-level', 'debug', '--print-config'] {pymicro.cwd}"
    assert any(line.split() == ["log_level", "debug", "flag", "--log-level"] for line in config)
    assert any(line.split() == ["server_name", "one", "code"] for line in config)


async def test_a_module_is_imported_from_the_working_directory(pymicro: Commands) -> None:
    package = pymicro.cwd / "pack" / "age"
    package.mkdir(parents=True)
    (package / "module.py").write_text(ONE)
    for target in ("pack.age.module", "pack.age.module:service"):
        result = await pymicro("run", target, "--print-config")
        assert result.code == 0
        assert result.out.splitlines()[0] == (
            f"pack.age.module ['pack.age.module', '--print-config'] {pymicro.cwd}"
        )


async def test_settings_stand_before_or_after_the_target(pymicro: Commands, app: Path) -> None:
    before = ("--log_level=error", "--print-config", "--server-metadata", "a=1")
    result = await pymicro("run", *before, "one.py", "--server-metadata", "b=2")
    rows = [line.split() for line in result.out.splitlines()]
    assert ["log_level", "error", "flag", "--log-level"] in rows
    assert ["server_metadata", "a=1,b=2", "flag", "--server-metadata"] in rows


async def test_a_bad_flag_is_one_message_and_exit_2(pymicro: Commands, app: Path) -> None:
    result = await pymicro("run", "one.py", "--registri", "x")
    assert result.code == 2
    assert "unknown flag --registri; did you mean '--registry'?" in result.err.replace(
        "--registry?", "'--registry'?"
    )
    assert "Traceback" not in result.err


async def test_a_service_runs_without_what_draws_tables(pymicro: Commands) -> None:
    (pymicro.cwd / "seen.py").write_text(
        "import sys\nfrom pymicro import Service\nservice = Service('seen')\n"
        "@service.on_start\n"
        "async def tell():\n"
        "    print('rich' in sys.modules, 'click' in sys.modules, flush=True)\n"
    )
    ours, theirs = pty.openpty()
    try:
        async with pymicro.started("run", "seen.py", stderr=theirs, TERM="xterm") as process:
            assert await next_line(process.stdout) == "False True"
            assert (await pymicro("wait", "seen")).code == 0
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
        log = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    # And colours its levels all the same.
    assert re.search(
        r"^\x1b\[2m[\d:.]+\x1b\[0m \x1b\[32minfo   \x1b\[0m seen .* on 127\.0\.0\.1:\d+, ", log, re.M
    )


async def test_a_program_that_runs_itself_is_not_run_again(pymicro: Commands) -> None:
    (pymicro.cwd / "self.py").write_text(
        "from pymicro import Service\nservice = Service('self')\nservice.run()\nprint('over')\n"
    )
    async with pymicro.started("run", "self.py") as process:
        assert "self serves no method" in await next_line(process.stderr)
        assert ", registered" in await next_line(process.stderr)
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert (process.returncode, out) == (0, b"over\n")
        assert b", registered" not in err


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("two.py", "has 2 Services, name the one to run:\n  two.py:first  (a)\n  two.py:second  (b)"),
        ("none.py", "none.py has no Service: a name of the module must hold one"),
        ("two.py:frist", "two.py has no name 'frist'; did you mean 'first'?"),
        ("two.py:zzzzz", "two.py has no name 'zzzzz'; its Services: first, second"),
        ("two.py:number", "two.py:number is no Service but of type int"),
        ("tow.py", "there is no file tow.py; did you mean 'two.py'?"),
        ("./folder", "./folder is a folder: name the file in it, such as folder/server.py"),
        ("two", "two has 2 Services"),
        ("nothing.at.all", "there is no module nothing"),
        ("two.three", "there is no module two.three"),
        ("a-b", "'a-b' is neither a file (path.py) nor a module (package.module)"),
        ("two.txt/x", "there is no file two.txt/x"),
    ],
)
async def test_a_target_that_is_no_service_says_what_was_looked_for(
    pymicro: Commands, target: str, words: str
) -> None:
    (pymicro.cwd / "two.py").write_text(
        "from pymicro import Service\nfirst, second, number = Service('a'), Service('b'), 1\nagain = first\n"
    )
    (pymicro.cwd / "none.py").write_text("x = 1\n")
    (pymicro.cwd / "folder").mkdir()
    result = await pymicro("run", target)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("pymicro run: ")
    assert words in result.err


async def test_one_of_several_services_is_named(pymicro: Commands) -> None:
    (pymicro.cwd / "two.py").write_text(
        "from pymicro import Service\n"
        "class Held:\n    it = Service('b')\n"
        "first, held = Service('a'), Held()\n"
    )
    for name, service in (("first", "a"), ("held.it", "b")):
        result = await pymicro("run", f"two.py:{name}", "--print-config")
        assert ["server_name", service, "code"] in [line.split() for line in result.out.splitlines()]


async def test_a_distribution_that_is_missing_is_not_taken_for_the_module(pymicro: Commands) -> None:
    """As in a project whose service reads its version, before the project is installed."""
    (pymicro.cwd / "missing").mkdir()
    (pymicro.cwd / "missing" / "server.py").write_text(
        "from importlib.metadata import version\nversion('missing')\n"
    )
    result = await pymicro("run", "missing.server")
    assert (result.code, result.out) == (1, "")
    assert "line 2, in <module>" in result.err
    assert result.err.splitlines()[-1] == (
        "pymicro run: missing.server failed while it was imported: missing is not installed in this "
        "environment: `pip install --editable .` in its folder"
    )


async def test_a_file_that_raises_shows_only_its_own_traceback(pymicro: Commands) -> None:
    (pymicro.cwd / "bad.py").write_text("import helper\n\nhelper.fail()\n")
    (pymicro.cwd / "helper.py").write_text("def fail():\n    raise ValueError('no good')\n")
    for target in ("bad.py", "bad"):
        result = await pymicro("run", target)
        assert result.code == 1
        lines = result.err.splitlines()
        assert lines[0] == "Traceback (most recent call last):"
        assert lines[1] == f'  File "{pymicro.cwd}/bad.py", line 3, in <module>'
        assert lines[-2] == "ValueError: no good"
        assert lines[-1] == f"pymicro run: {target} failed while it was imported"
        assert "importlib" not in result.err
        assert "pymicro/cli" not in result.err


async def test_bad_syntax_is_shown_where_it_is(pymicro: Commands) -> None:
    (pymicro.cwd / "bad.py").write_text("x = 1\ndef f(:\n    pass\n")
    for target in ("bad.py", "bad"):
        result = await pymicro("run", target)
        assert result.code == 1
        assert result.err.startswith(f'  File "{pymicro.cwd}/bad.py", line 2\n    def f(:\n')
        assert "SyntaxError: " in result.err
        assert result.err.endswith(f"pymicro run: {target} failed while it was imported\n")


async def test_an_import_that_is_missing_in_the_users_code_is_theirs(pymicro: Commands) -> None:
    (pymicro.cwd / "bad.py").write_text("import not_installed\n")
    for target in ("bad.py", "bad"):
        result = await pymicro("run", target)
        assert result.code == 1
        assert f'File "{pymicro.cwd}/bad.py", line 1' in result.err
        assert "ModuleNotFoundError: No module named 'not_installed'" in result.err


async def test_a_file_beside_a_package_of_its_name_can_use_the_package(pymicro: Commands) -> None:
    (pymicro.cwd / "one").mkdir()
    (pymicro.cwd / "one" / "__init__.py").touch()
    (pymicro.cwd / "one" / "words.py").write_text("NAME = 'one'\n")
    (pymicro.cwd / "one.py").write_text(
        "from one.words import NAME\nfrom pymicro import Service\nservice = Service(NAME)\n"
    )
    assert (await pymicro("run", "one.py", "--print-config")).code == 0


async def test_a_file_named_like_a_loaded_module_does_not_replace_it(pymicro: Commands) -> None:
    (pymicro.cwd / "os.py").write_text("from pymicro import Service\nservice = Service('x')\n")
    result = await pymicro("run", "os.py", "--print-config")
    assert result.code == 0, result.err


async def test_a_class_of_the_file_can_be_pickled_by_name(pymicro: Commands) -> None:
    (pymicro.cwd / "app.py").write_text(
        "import pickle\nfrom dataclasses import dataclass\nfrom pymicro import Service\n"
        "@dataclass\nclass Order:\n    name: str\n"
        "print(pickle.loads(pickle.dumps(Order('hat'))))\nservice = Service('x')\n"
    )
    result = await pymicro("run", "app.py", "--print-config")
    assert result.out.startswith("Order(name='hat')\n")


async def test_the_exit_code_of_the_program_is_kept(pymicro: Commands) -> None:
    (pymicro.cwd / "out.py").write_text("raise SystemExit(7)\n")
    assert (await pymicro("run", "out.py")).code == 7


async def test_an_interrupt_during_the_import_exits_130(pymicro: Commands) -> None:
    (pymicro.cwd / "slow.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(60)\n")
    async with pymicro.started("run", "slow.py") as process:
        assert await next_line(process.stdout) == "here"
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert (process.returncode, err) == (130, b"")


async def test_help_before_the_target_is_the_commands_and_after_it_the_programs(
    pymicro: Commands, app: Path
) -> None:
    assert (await pymicro("run", "--help")).out.startswith("Usage: pymicro run [OPTIONS] TARGET [FLAGS]...")
    result = await pymicro("run", "one.py", "--help")
    assert result.code == 0
    assert "--server-address" in result.out
    assert "Usage: pymicro" not in result.out


@pytest.mark.parametrize(
    ("program", "advice"),
    [
        (
            "from shop.v1 import shop_pb2 as pb",
            "the Python code of your protos is missing: `pymicro gen FOLDER` makes it of a folder of protos",
        ),
        (
            "from google.protobuf import runtime_version as v\n"
            "v.ValidateProtobufRuntimeVersion(v.Domain.PUBLIC, 99, 1, 0, '', 'x.proto')",
            "the code of your protos was made for a newer protobuf than is installed: make it again with "
            "`pymicro gen`, or upgrade protobuf",
        ),
        (
            "import late_pb2_grpc",
            "the code of your protos was made for a newer grpcio than is installed: make it again with "
            "`pymicro gen`, or upgrade grpcio",
        ),
        ("import nothing_of_that_name", ""),
        ("raise RuntimeError('of the program')", ""),
    ],
)
async def test_code_of_protos_that_is_missing_or_too_new_is_said(
    pymicro: Commands, program: str, advice: str
) -> None:
    (pymicro.cwd / "late_pb2_grpc.py").write_text(
        "raise RuntimeError('The grpc package installed is at version 1.2')"
    )
    (pymicro.cwd / "shop.py").write_text(program)
    result = await pymicro("run", "shop.py")
    assert result.code == 1
    end = f": {advice}" if advice else ""
    assert result.err.endswith(f"pymicro run: shop.py failed while it was imported{end}\n")
