"""What the README says runs as pasted, from the built wheel, in a directory of its own."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.pages import README
from tests.processes import Processes
from tests.terminal import Terminal


@pytest.fixture
def terminal(tmp_path: Path, wheel_python: Path, processes: Processes) -> Terminal:
    """An empty directory with the README's files in it."""
    folder = tmp_path / "hello"
    folder.mkdir()
    README.write_files(folder)
    return Terminal(folder, wheel_python, processes)


def test_the_readme_has_the_files_that_it_speaks_of() -> None:
    assert set(README.files()) == {
        "protos/greeter/v1/greeter.proto",
        "server.py",
        "client.py",
        "protos/weather/v1/weather.proto",
        "station.py",
        "timing.py",
        "test_greeter.py",
    }


def test_the_server_and_the_client_run_as_pasted(terminal: Terminal) -> None:
    *_, printed = terminal.paste(README, "python client.py")
    assert printed == ["Hello Ada"]


def test_the_commands_run_as_pasted(terminal: Terminal) -> None:
    terminal.run(README.console("python client.py")[0].line)  # generates the code
    nodes, reply = terminal.paste(README, "nodes greeter")
    assert any("127.0.0.1:" in line for line in nodes)
    assert json.loads("".join(reply)) == {"message": "Hello Ada"}


def test_the_service_with_four_shapes_runs_as_pasted(terminal: Terminal) -> None:
    _, now, forecast = terminal.paste(README, "station.py")
    assert json.loads("".join(now)) == {"celsius": 4.0}
    assert [json.loads(line)["celsius"] for line in forecast] == [18.0, 19.0, 21.0]

    readings = "printf '%s\\n' " + shlex.join(['{"celsius": 50}', '{"celsius": 68}'])
    average = terminal.run(f"bash -c {shlex.quote(f'{readings} | pymicro call weather Weather.Average -')}")
    assert json.loads("".join(average)) == {"celsius": 59.0}
    convert = terminal.run(f"bash -c {shlex.quote(f'{readings} | pymicro call weather Weather.Convert -')}")
    assert [round(json.loads(line)["celsius"]) for line in convert] == [10, 20]


def test_an_error_is_shown_with_its_status(terminal: Terminal) -> None:
    terminal.paste(README, "station.py")
    process = terminal.start("""pymicro call weather Weather.Now '{"name": "Atlantis"}'""")
    assert process.wait() == 64 + 5
    assert any(line.startswith("NOT_FOUND: no weather for 'Atlantis'") for line in process.stderr)


def test_the_interceptor_works_on_both_ends(terminal: Terminal) -> None:
    generate = README.console("python client.py")[0].line
    terminal.run(generate)
    server = (terminal.folder / "server.py").read_text()
    served = server.replace('version="1.0.0"', 'version="1.0.0", interceptors=[timing]')
    (terminal.folder / "server.py").write_text(f"from timing import timing\n{served}")
    client = (terminal.folder / "client.py").read_text()
    called = client.replace("pymicro.Client()", "pymicro.Client(interceptors=[timing])")
    (terminal.folder / "client.py").write_text(f"from timing import timing\n{called}")

    process = terminal.start("python server.py")
    process.wait_for(r"127\.0\.0\.1:\d+")
    first, second = terminal.run("python client.py")
    assert first.startswith("/greeter.v1.Greeter/SayHello took ")
    assert second == "Hello Ada"
    process.wait_for("/greeter.v1.Greeter/SayHello took ")


def test_the_test_runs_as_pasted(terminal: Terminal) -> None:
    terminal.run(README.console("python client.py")[0].line)  # generates the code
    terminal.run("python -m pip install --quiet pytest pytest-asyncio")
    printed = terminal.run("python -m pytest -q -o asyncio_mode=auto test_greeter.py")
    assert printed[-1].startswith("1 passed")
