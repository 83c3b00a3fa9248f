"""Services of programs that set up logging as Python's documentation shows it."""

from __future__ import annotations

import asyncio
import textwrap

import pytest

from tests.processes import ROOT, Processes

DICT = """
import logging.config
logging.config.dictConfig({
    "version": 1,
    "handlers": {"err": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["err"], "level": "INFO"},
})
"""
FILE = """
import io, logging.config
logging.config.fileConfig(io.StringIO('''
[loggers]
keys=root
[handlers]
keys=err
[formatters]
keys=
[logger_root]
level=INFO
handlers=err
[handler_err]
class=StreamHandler
args=(sys.stderr,)
'''))
"""
SERVICE = """
from greeter.v1 import greeter_pb2 as pb
from pymicro import Service, handler

class Greeter:
    @handler
    async def say_hello(self, request: pb.HelloRequest) -> pb.HelloReply:
        return pb.HelloReply()

service = Service("quiet", server_address="127.0.0.1:0")
service.add(Greeter(), pb, partial=True)

@service.on_start
def start():
{inside}

if __name__ == "__main__":
{before}
    service.run()
"""


@pytest.mark.parametrize("place", ["before the start", "in on_start"])
@pytest.mark.parametrize("how", [DICT, FILE], ids=["dictConfig", "fileConfig"])
async def test_a_configuration_that_disables_other_loggers_leaves_the_lines_of_the_service(
    processes: Processes, how: str, place: str
) -> None:
    given, other = textwrap.indent(how, "    "), "    pass"
    before, inside = (given, other) if place == "before the start" else (other, given)
    process = processes.python(
        "-c", SERVICE.format(before=before, inside=inside), PYTHONPATH=str(ROOT / "examples" / "greeter")
    )
    await asyncio.to_thread(process.wait_for, r"quiet latest on 127\.0\.0\.1:\d+")


@pytest.mark.parametrize(("force", "no_colour", "coloured"), [("", "", 0), ("1", "", 1), ("1", "1", 0)])
def test_levels_have_colours_in_a_pipe_only_where_somebody_shows_them_in_a_terminal(
    processes: Processes, force: str, no_colour: str, coloured: int
) -> None:
    program = (
        "import logging\nfrom pymicro.runtime import logs\nfrom pymicro.settings.config import Config\n"
        "logs.set_up(Config())\nlogging.warning('well')\n"
    )
    process = processes.python("-c", program, FORCE_COLOR=force, NO_COLOR=no_colour)
    assert process.wait() == 0
    assert process.stderr[0].count("\x1b[33m") == coloured
