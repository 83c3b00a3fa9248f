"""The programs of docs/handlers.md do what the page says of them; `test_docs` has run it as pasted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pages import HANDLERS, README
from tests.processes import Processes
from tests.terminal import Terminal


@pytest.fixture
def terminal(tmp_path: Path, wheel_python: Path, processes: Processes) -> Terminal:
    """An empty directory with the page's files in it."""
    folder = tmp_path / "handlers"
    folder.mkdir()
    HANDLERS.write_files(folder)
    return Terminal(folder, wheel_python, processes)


def test_the_page_has_the_files_that_it_speaks_of() -> None:
    assert set(HANDLERS.files()) == {
        "protos/weather/v1/weather.proto",
        "station.py",
        "timing.py",
        "archive.py",
        "barometer.py",
        "observatory.py",
        "orders.py",
    }


def test_the_service_with_four_shapes_runs_as_pasted(terminal: Terminal) -> None:
    _, now, forecast, average, convert = terminal.paste(HANDLERS, "station.py")
    assert json.loads("".join(now)) == {"celsius": 4.0}
    assert [json.loads(line)["celsius"] for line in forecast] == [18.0, 19.0, 21.0]
    assert json.loads("".join(average)) == {"celsius": 59.0}
    assert [round(json.loads(line)["celsius"]) for line in convert] == [10, 20]


def test_an_error_is_shown_with_its_status(terminal: Terminal) -> None:
    terminal.paste(HANDLERS, "station.py")
    process = terminal.start("""pymicro call weather Weather.Now '{"name": "Atlantis"}'""")
    assert process.wait() == 64 + 5
    assert any(line.startswith("NOT_FOUND: no weather for 'Atlantis'") for line in process.stderr)


def test_the_interceptor_works_on_both_ends(terminal: Terminal) -> None:
    README.write_files(terminal.folder)
    terminal.run(README.console("python client.py")[0].line)  # generates the code
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
