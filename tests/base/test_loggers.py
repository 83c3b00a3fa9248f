"""A program that sets up logging does not silence pymicro by it."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymicro.base.loggers import logger


@pytest.fixture
def named() -> Iterator[str]:
    name = "pymicro.test_loggers"
    yield name
    logging.Logger.manager.loggerDict.pop(name)


# In a process of its own: what it does to logging, it does to all loggers there are.
CONFIGURED = """
import logging.config
from pymicro.base.loggers import logger

log, other = logger("pymicro.here"), logging.getLogger("other.here")
logging.config.dictConfig({"version": 1})
assert not log.disabled
assert other.disabled  # what the program's other libraries get
logging.config.dictConfig({"version": 1, "loggers": {"pymicro.here": {"level": "ERROR"}}})
assert (log.disabled, log.level) == (False, logging.ERROR)
# Whoever says so in code means it.
log.disabled = True
assert log.disabled
print("all of it")
"""


def test_configuration_disables_neither_it_nor_what_it_was_told() -> None:
    assert subprocess.check_output([sys.executable, "-c", CONFIGURED], text=True) == "all of it\n"


def test_it_is_the_programs_logger_of_that_name(named: str) -> None:
    assert logger(named) is logging.getLogger(named) is logger(named)


def test_a_programs_own_class_of_loggers_stays(named: str) -> None:
    class Own(logging.Logger):
        pass

    before = logging.getLoggerClass()
    logging.setLoggerClass(Own)
    try:
        assert type(logger(named)) is Own
    finally:
        logging.setLoggerClass(before)


def test_every_logger_of_pymicro_is_one() -> None:
    """No module makes its logger in another way."""
    root = Path(sys.modules["pymicro"].__file__ or "").parent
    made = [
        f"{path.relative_to(root)}: {line.strip()}"
        for path in sorted(root.rglob("*.py"))
        if path.name != "loggers.py"
        for line in path.read_text().splitlines()
        if line.startswith("log = ") and "getLogger(" in line
    ]
    assert made == []
