"""`make demo` as a whole, and that it can fail."""

from __future__ import annotations

import os
import re
import signal

import pytest

from tests.processes import Processes

pytestmark = pytest.mark.once

DEMO = "examples/greeter/demo.py"


def test_the_demo_tells_its_story_and_ends_well(processes: Processes) -> None:
    demo = processes.python(DEMO)
    assert demo.wait(90) == 0, demo.report()
    text = "\n".join(demo.stdout)
    assert text.count("exit code 0") == 3
    # Three nodes answer, then the two left, then three again: from the replies.
    assert [len(re.findall(r"replies", act)) for act in re.split(r"\n\d\. ", text)[1:]] == [0, 3, 2, 3, 0]
    assert "All as it should be" in text


def test_the_demo_fails_when_a_greeter_dies_of_itself(processes: Processes) -> None:
    demo = processes.python(DEMO)
    pids = pids_of_first_act(demo.wait_for(r"pids (.*): all ready")[1])
    demo.wait_for("2. A client calls")
    os.kill(pids[2], signal.SIGKILL)
    assert demo.wait(90) == 1, demo.report()
    assert any(line.startswith("FAILED: ") for line in demo.stderr)
    assert not any(is_there(pid) for pid in pids)


def test_an_interrupted_demo_leaves_no_process_behind(processes: Processes) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        demo = processes.python(DEMO)
        pids = pids_of_first_act(demo.wait_for(r"pids (.*): all ready")[1])
        demo.signal(number)
        assert demo.wait() == 130, demo.report()
        assert not any(is_there(pid) for pid in pids)


def pids_of_first_act(text: str) -> list[int]:
    return [int(pid) for pid in text.split(", ")]


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
