"""Every call of the matrix (matrix.py): its answers, or its error as the other side's users see it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest

from tests.gomicro.matrix import (
    CODECS,
    ENDS,
    OK,
    PLAIN,
    ROWS,
    STATUSES,
    TO_GO,
    TO_PYTHON,
    Matrix,
    Row,
    exists,
)
from tests.gomicro.peers import Object
from tests.gomicro.scenes import PYTHON, Peer, Scenes

pytestmark = pytest.mark.gomicro

# Goes through all codecs and back.
TAG = 'Grüße, "quoted" \\ & <b> \u2028 \n'

ANSWERS = {
    "unary": ["Hello Ada"],
    "server stream": ["Ada 1", "Ada 2"],
    "client stream": ["Ada, Grace"],
    "bidi": ["You said: Ada", "You said: Grace"],
}
# What a peer is asked to fail with.
CODES = {OK: 0, PLAIN: -1, **{str(status): status for status in STATUSES}}
# Those that come before the error.
BEFORE_ERROR = {"server stream": ["Ada 1", "Ada 2"]}


@pytest.mark.parametrize("row", [row for row in ROWS if exists(row, OK)], ids=str)
def test_calls_and_their_errors_arrive(row: Row, scenes: Scenes, matrix: Matrix) -> None:
    for end in ENDS:
        if exists(row, end):
            matrix.put(row, end, "was never made")
    scene = scenes.get(row.registry)
    for end in ENDS:
        if not exists(row, end):
            continue
        result = scene.call(
            row.direction,
            shape=row.shape,
            codec=CODECS[row.codec],
            texts=["Ada", "Grace"],
            ask={"count": 2, "code": CODES[end], "tags": {"said": TAG}},
        )
        server = scene.server(row.direction)
        wrong = wrong_answers(row, end, result, server)
        wrong += wrong_error(row, end, result.get("error"))
        matrix.put(row, end, "; ".join(wrong))
    assert matrix.failures(row) == []


def wrong_answers(row: Row, end: str, result: Object, server: Peer) -> list[str]:
    """What is not as it should be in the answers."""
    answers = result.get("answers", [])
    texts = [answer["text"] for answer in answers]
    wanted = ANSWERS[row.shape] if end == OK else BEFORE_ERROR.get(row.shape, [])
    wrong = [] if texts == wanted else [f"answers {texts}, not {wanted}"]
    for answer in answers:
        if answer["node"] != server.node:
            wrong.append(f"answered by {answer['node']}, not {server.node}")
        if answer["saw"].get("tag-said") != TAG:
            wrong.append(f"the tag came back as {answer['saw'].get('tag-said')!r}")
    return wrong


def wrong_error(row: Row, end: str, error: Object | None) -> list[str]:
    """What is not as it should be in the error."""
    if error is None:
        return [] if end == OK else ["no error"]
    if end == OK:
        return [f"error {error}"]
    wanted = seen_from_python(end) if row.direction == TO_GO else seen_from_go(row, end)
    return [
        f"{key} {error.get(key)!r}, not {value!r}" for key, value in wanted.items() if error.get(key) != value
    ]


def seen_from_python(end: str) -> dict[str, Any]:
    """A Go server's error in pymicro's exception."""
    if end == PLAIN:
        return {"type": "Unknown", "grpc": "UNKNOWN", "detail": "a plain error", "id": None, "code": None}
    status = STATUSES[int(end)]
    return {
        "type": camel(status),
        "grpc": status,
        "detail": detail(end),
        "id": "go.peer.failing",
        "code": int(end),
    }


def seen_from_go(row: Row, end: str) -> dict[str, Any]:
    """A pymicro handler's error as a Go client has it.

    Of a stream go-micro 1.18 hands over the status as it came, with the JSON in its text.
    """
    code = 500 if end == PLAIN else int(end)
    wanted: dict[str, Any] = {"code": code, "status": HTTPStatus(code).phrase, "id": PYTHON}
    if end != PLAIN:  # whose text is no business of the caller's
        wanted["detail"] = detail(end)
    if row.shape == "unary":
        return {**wanted, "type": "*errors.Error"}
    return {**wanted, "type": "status", "grpc": camel(STATUSES[code])}


def detail(end: str) -> str:
    return f'as asked: {end}, "quoted" & ünïcode'


def camel(status: str) -> str:
    """`NotFound` for NOT_FOUND, as both languages write it."""
    return "".join(word.capitalize() for word in status.split("_"))


def test_a_plain_errors_text_stays_in_the_server(scenes: Scenes) -> None:
    error = scenes.get("direct").call(
        TO_PYTHON, shape="unary", codec=CODECS["proto"], texts=["Ada"], ask={"code": -1}
    )["error"]
    assert "a plain error" not in str(error)
    assert error["detail"]
