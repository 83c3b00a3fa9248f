"""Nodes, statuses, addresses, backoff, tasks, logs: the small things everything stands on."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import logging
import pickle
import sys

import grpc
import pytest
from google.rpc import error_details_pb2

import pymicro
from pymicro import Endpoint, Node, NodeSet, Value
from pymicro.base.backoff import Backoff
from pymicro.base.tasks import Tasks
from pymicro.nodes.address import is_ip, join_address, split_address
from pymicro.rpc.status import RpcError, by_code
from pymicro.runtime.logs import set_up
from pymicro.settings.config import load
from tests.bare_logging import bare_logging


def test_equal_sets_are_equal_however_they_were_gathered() -> None:
    a, b = Node("a", "h:1"), Node("b", "h:2")
    assert NodeSet.of([a, b]) == NodeSet.of([b, a, a])
    changed = Node("a", "h:1", version="2")
    assert NodeSet.of([a, changed]).nodes == (changed,)
    assert a.key != Node("a", "h:9").key
    assert not NodeSet()
    assert len({a, changed}) == 2


def test_nodes_are_chosen_by_version_and_metadata() -> None:
    nodes = NodeSet.of(
        [
            Node("a", "h:1", version="1", metadata={"zone": "x", "protocol": "grpc"}),
            Node("b", "h:2", version="2", metadata={"zone": "x"}),
            Node("c", "h:3", version="2"),
        ]
    )
    assert [node.id for node in nodes.select(version="2")] == ["b", "c"]
    assert [node.id for node in nodes.select(metadata={"zone": "x"})] == ["a", "b"]
    assert [node.id for node in nodes.select("2", {"zone": "x"})] == ["b"]
    assert nodes.select() is nodes


def test_every_status_but_ok_has_its_class() -> None:
    classes = {code: by_code(code) for code in grpc.StatusCode if code is not grpc.StatusCode.OK}
    assert len(set(classes.values())) == 16
    for code, kind in classes.items():
        assert kind.__name__ == "".join(part.title() for part in code.name.split("_"))
        error = kind("text")
        assert error.code() is code
        assert error.details() == "text"
        assert isinstance(error, grpc.RpcError)
        assert isinstance(error, pymicro.PymicroError)
        assert getattr(pymicro, kind.__name__) is kind


def test_an_error_can_be_copied_and_pickled_with_all_it_carries() -> None:
    detail = error_details_pb2.BadRequest(
        field_violations=[error_details_pb2.BadRequest.FieldViolation(field="name", description="empty")]
    )
    error = pymicro.InvalidArgument(
        "bad",
        error_details=[detail],
        trailing_metadata=[("k", "v"), ("b-bin", b"\0")],
        node=Node("n", "h:1", metadata={"a": "b"}, endpoints=(Endpoint("G.S", Value("R", "R")),)),
        callee="greeter/G/S",
        from_peer=True,
        micro_id="greeter.Hello",
        micro_code=400,
    )
    for again in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is pymicro.InvalidArgument
        assert again.details() == "bad"
        assert again.error_details == (detail,)
        assert tuple(again.trailing_metadata()) == (("k", "v"), ("b-bin", b"\0"))
        assert (again.node, again.callee, again.from_peer) == (error.node, error.callee, True)
        assert (again.micro_id, again.micro_code) == ("greeter.Hello", 400)
        assert repr(again).endswith("from_peer=True, micro_id='greeter.Hello', micro_code=400)")
    assert "INVALID_ARGUMENT: bad" in str(error)
    assert "h:1" in str(error)


def test_the_base_of_all_statuses_is_not_raised_itself() -> None:
    with pytest.raises(TypeError, match="NotFound"):
        RpcError("which?")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("host:80", ("host", 80)),
        (":80", ("", 80)),
        ("[::1]:80", ("::1", 80)),
        ("10.0.0.1:0", ("10.0.0.1", 0)),
    ],
)
def test_addresses_are_split_and_joined(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts
    assert join_address(*parts) == text


@pytest.mark.parametrize("text", ["host", "host:", "host:x", "host:70000", "[::1", "::1", "h:-1", "h:٣"])
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        split_address(text)


def test_a_default_port_stands_in_for_a_missing_one() -> None:
    assert split_address("host", 80) == ("host", 80)
    assert split_address("::1", 80) == ("::1", 80)
    assert split_address("[::1]", 80) == ("::1", 80)
    assert is_ip("::1")
    assert is_ip("10.0.0.1")
    assert not is_ip("localhost")


def test_backoff_grows_with_full_jitter_to_its_limit() -> None:
    ceilings: list[float] = []

    def highest(low: float, high: float) -> float:
        assert low == 0
        ceilings.append(high)
        return high

    backoff = Backoff(0.5, 3.0, uniform=highest)
    assert [backoff.next() for _ in range(4)] == [0.5, 1.0, 2.0, 3.0]
    backoff.reset()
    assert backoff.next() == 0.5
    assert Backoff(0.5, 3.0, floor=0.2, uniform=lambda low, high: low).next() == 0.2


async def test_tasks_end_with_their_owner() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with Tasks("owner") as tasks:
        tasks.start(work(), "work")
        await asyncio.sleep(0)  # one turn: it begins
    assert ended.is_set()
    assert tasks.closed
    with pytest.raises(RuntimeError, match="owner is not running"):
        tasks.start(work(), "late")


async def test_a_bug_in_a_task_is_logged_and_reaches_neither_siblings_nor_the_body(
    caplog: pytest.LogCaptureFixture, bugs: list[str]
) -> None:
    async def broken() -> None:
        raise KeyError("bug")

    ended = asyncio.Event()

    async def works() -> str:
        await ended.wait()
        return "all of it"

    async with Tasks("owner") as tasks:
        sibling = tasks.start(works(), "sibling")
        await asyncio.wait({tasks.start(broken(), "work")})
        ended.set()
        assert await sibling == "all of it"
        assert not tasks.closed
    assert "owner: work died of a bug" in caplog.text
    assert "KeyError: 'bug'" in caplog.text
    assert bugs == ["owner: work died of a bug"]
    bugs.clear()


async def test_tasks_are_waited_for_by_an_owner_that_is_cancelled_while_it_leaves() -> None:
    leaving, end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            leaving.set()
            await end.wait()
            ended.set()

    async def body() -> None:
        async with Tasks("owner") as tasks:
            tasks.start(slow(), "work")
            await asyncio.sleep(0)

    owner = asyncio.create_task(body())
    await leaving.wait()
    owner.cancel()
    await asyncio.sleep(0)
    end.set()
    with pytest.raises(asyncio.CancelledError):
        await owner
    assert ended.is_set()


def test_log_lines_for_people_and_for_programs() -> None:
    human, lines = io.StringIO(), io.StringIO()
    with bare_logging():
        set_up(load({}, [], {}), human)
        logging.getLogger("pymicro.server").warning("it %s", "happened")
        logging.getLogger("pymicro.server").debug("unseen")
    assert human.getvalue().rstrip().endswith("warning server: it happened")
    assert "\x1b" not in human.getvalue()
    with bare_logging():
        set_up(load({"log_format": "json", "log_level": "debug"}, [], {}), lines)
        try:
            raise ValueError("inside")
        except ValueError:
            logging.getLogger("pymicro.x").exception("broke", extra={"call": "7"})
    entry = json.loads(lines.getvalue())
    assert entry["level"] == "error"
    assert entry["message"] == "broke"
    assert entry["call"] == "7"
    assert "ValueError: inside" in entry["exception"]


def test_logging_the_program_set_up_itself_is_left_alone() -> None:
    own = logging.StreamHandler(sys.stderr)
    with bare_logging() as root:
        root.addHandler(own)
        set_up(load({}, [], {}))
        assert root.handlers == [own]
