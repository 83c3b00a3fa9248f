"""What all tests share: a registry folder of their own, programs, and a guard against left-over tasks."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests import second_look
from tests.bars import Bars, measured_in, table
from tests.processes import Processes, clean_environment
from tests.seams import summary
from tests.transports import ENDS

# A test that hangs is a failure with a traceback, not a run that never ends.
LONGEST = 120.0
# How long what a test closed may take to be gone: some of grpc.aio's own tasks
# end a few turns of the loop after their channel or server.
GRACE = 1.0


# A shell's background job is started with SIGINT ignored, what runs under nohup with SIGHUP, and children
# inherit that: what the tests start must be interruptible wherever they run, and end with its terminal.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--transport", default="grpc", help="setting `transport` of all clients and services, programs too"
    )
    parser.addoption(
        "--server-transport", help="the same for servers here, and for programs; as --transport if not given"
    )
    parser.addoption(
        "--client-transport", help="the same for clients in the tests' process; as --transport if not given"
    )


def pytest_configure(config: pytest.Config) -> None:
    """What `tests.transports` tells is set before anything is collected."""
    default = config.getoption("--transport")
    ENDS.client = config.getoption("--client-transport") or default
    ENDS.server = config.getoption("--server-transport") or default
    for chosen in (ENDS.client, ENDS.server):
        if chosen not in ("grpc", "fast"):
            raise pytest.UsageError(f"there is no transport {chosen}")
    second_look.register(config)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes `-n auto` shares the tests among; 0 is this one."""
    if len(config.args) == 1 and config.args[0].partition("::")[0].endswith(".py"):
        return 0  # the tests of one file stay together anyway
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    # Half of the time a test waits. A container may see many more CPUs than it gets.
    return min(2 * cpus, 16)


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> Iterator[None]:
    """Whoever runs the tests may have `MICRO_*` set; the tests must not see it."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("MICRO_")}
    if ENDS.server != "grpc":
        os.environ["MICRO_TRANSPORT"] = ENDS.server
    with pytest.MonkeyPatch.context() as patch:
        ENDS.set_apart(patch)
        yield
    os.environ.pop("MICRO_TRANSPORT", None)
    os.environ.update(taken)


@pytest.fixture
def registry_folder(tmp_path: Path) -> str:
    """A folder for the registry `local` that no other test and no user shares."""
    folder = tmp_path / "registry"
    folder.mkdir(mode=0o700)
    return str(folder)


@pytest.fixture
def processes(registry_folder: str) -> Iterator[Processes]:
    """Starts programs that use `registry_folder`, and ends them after the test."""
    started = Processes(clean_environment(MICRO_REGISTRY_ADDRESS=registry_folder))
    yield started
    started.end()


@pytest.fixture
def bars(request: pytest.FixtureRequest) -> Bars:
    """Reports figures for the table at the end of the run."""
    return Bars(request.node.name, request.node.user_properties)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The bars' table, if anything of it was measured, and what went over each transport."""
    # A test's last report has all of its properties.
    last = [
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "teardown"
    ]
    if measured := measured_in(last):
        terminalreporter.section("bars of calls")
        for line in table(measured):
            terminalreporter.write_line(line)
    if lines := summary(last):
        terminalreporter.section("the two seams")
        for line in lines:
            terminalreporter.write_line(line)


class _Bugs(logging.Handler):
    """The background tasks that died of a bug: the program goes on, a test must not."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())


_bugs = _Bugs()
logging.getLogger("pymicro.tasks").addHandler(_bugs)


@pytest.fixture
def bugs() -> list[str]:
    """What was logged of background tasks that died of a bug; a test that means it takes it out."""
    return _bugs.found


def _logging() -> dict[str, object]:
    """What a test can do to logging that the tests after it would feel."""
    root = logging.getLogger()
    known = logging.Logger.manager.loggerDict.items()
    return {
        "off": sorted(name for name, one in known if isinstance(one, logging.Logger) and one.disabled),
        "disabled": logging.root.manager.disable,
        "levels": (root.level, logging.getLogger("pymicro").level),
        "handlers": (root.handlers[:], logging.getLogger("pymicro").handlers[:]),
        "class": logging.getLoggerClass(),
    }


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A test that changes how this process logs puts it back, or is the one that fails."""
    before = _logging()
    yield
    assert _logging() == before


@asynccontextmanager
async def _at_most(seconds: float) -> AsyncIterator[None]:
    """Cancel what takes longer, over and over: a test may wait for a CancelledError of its own."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    late = False

    def cancel() -> None:
        nonlocal late, timer
        late = True
        task.cancel()
        timer = loop.call_later(GRACE, cancel)

    timer = loop.call_later(seconds, cancel)
    try:
        yield
    except asyncio.CancelledError:
        if not late:
            raise
    finally:
        timer.cancel()
    if late:
        raise TimeoutError(f"the test took more than {seconds:g} s")


def guarded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """`test`, failing if it takes too long, leaves tasks behind, or a background task died of a bug."""

    @functools.wraps(test)
    async def run(*args: object, **kwargs: object) -> None:
        before = asyncio.all_tasks()
        _bugs.found.clear()
        async with _at_most(LONGEST):
            await test(*args, **kwargs)
        left = asyncio.all_tasks() - before
        if left:
            _, left = await asyncio.wait(left, timeout=GRACE)
        if left:
            names = "\n".join(f"  {task!r}" for task in left)
            pytest.fail(f"{len(left)} tasks were left behind:\n{names}", pytrace=False)
        if _bugs.found:
            pytest.fail("; ".join(_bugs.found), pytrace=False)

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Guard every asynchronous test."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = guarded(item.obj)
