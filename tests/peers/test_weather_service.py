"""The service with four shapes that docs/handlers.md shows, called by grpcurl."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.pages import HANDLERS
from tests.peers.test_grpcurl import grpcurl
from tests.processes import Processes

pytestmark = pytest.mark.peers


@pytest.fixture
def weather(processes: Processes, tmp_path: Path) -> str:
    """The address of the page's service, running in a directory of its own."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    HANDLERS.write_files(folder)
    for command in HANDLERS.console("station.py"):
        if "pymicro gen" in command.line:
            line = command.line.replace("pymicro", f"{sys.executable} -m pymicro", 1)
            assert processes.start("bash", "-c", line, cwd=folder).wait() == 0
    server = processes.pymicro("run", "station.py", cwd=folder)
    return server.wait_for(r"weather.*?(127\.0\.0\.1:\d+)")[1]


def test_grpcurl_lists_describes_and_calls_it(weather: str) -> None:
    listed = grpcurl(weather, "list")
    assert "weather.v1.Weather" in listed.stdout.split(), listed.stderr

    described = grpcurl(weather, "describe", "weather.v1.Weather")
    assert "rpc Convert ( stream .weather.v1.Reading ) returns ( stream .weather.v1.Reading );" in (
        described.stdout
    )

    now = grpcurl("-d", '{"name": "Oslo"}', weather, "weather.v1.Weather/Now")
    assert json.loads(now.stdout) == {"celsius": 4}, now.stderr
    forecast = grpcurl("-d", '{"name": "Rome"}', weather, "weather.v1.Weather/Forecast")
    assert forecast.stdout.count('"celsius"') == 3, forecast.stderr
    readings = '{"celsius": 50}{"celsius": 68}'
    average = grpcurl("-d", "@", weather, "weather.v1.Weather/Average", stdin=readings)
    assert json.loads(average.stdout) == {"celsius": 59}, average.stderr
    convert = grpcurl("-d", "@", weather, "weather.v1.Weather/Convert", stdin=readings)
    assert convert.stdout.count('"celsius"') == 2, convert.stderr
