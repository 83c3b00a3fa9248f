"""Statuses on the wire: what a peer may send, and what we make of it."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import AioRpcError, Metadata

from pymicro.nodes.node import Node
from pymicro.rpc.status import NotFound, RpcError, Unavailable, by_code
from pymicro.rpc.wire.status import DETAILS_KEY, clip, from_aio, to_wire

CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


def received(code: Any, *trailing: tuple[str, Any], details: Any = "text") -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(*trailing), details, "debug")


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_every_code_goes_out_and_comes_back_as_the_same_class(code: grpc.StatusCode) -> None:
    info = error_details_pb2.ErrorInfo(reason="WHY")
    wire = to_wire(
        by_code(code)("text", error_details=[info], trailing_metadata=[("x-a", "1")]), [("x-b", "2")]
    )
    assert (wire.code, wire.details, wire.dropped) == (code, "text", ())
    node = Node("n1", "10.0.0.1:1")
    back = from_aio(received(code, *wire.trailing), node=node, callee="/a.B/C on d")
    assert type(back) is by_code(code)
    assert back.details() == "text"
    assert back.error_details == (info,)
    assert (back.node, back.callee, back.from_peer) == (node, "/a.B/C on d", True)
    assert back.debug_error_string() == "debug"
    assert [pair for pair in back.trailing_metadata() or () if pair[0].startswith("x-")] == [
        ("x-b", "2"),
        ("x-a", "1"),
    ]


def test_who_made_a_status_is_told_only_where_it_is_known() -> None:
    never_from_core = {
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "DATA_LOSS",
    }
    for code in CODES:
        assert from_aio(received(code)).from_peer is (True if code.name in never_from_core else None)
        assert from_aio(received(code, ("pymicro-not-started", "1"))).from_peer is True


def rich(code: int, *packed: any_pb2.Any) -> bytes:
    return status_pb2.Status(code=code, details=packed).SerializeToString()


HOSTILE = {
    "junk": b"\xff\xff\xff",
    "truncated": rich(5, any_pb2.Any(type_url="x", value=b"y" * 100))[:-3],
    "another status": rich(3, any_pb2.Any()),
    "text": "text",
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
def test_rich_details_that_make_no_sense_are_left_out(raw: Any) -> None:
    error = from_aio(received(grpc.StatusCode.NOT_FOUND, (DETAILS_KEY, raw)))
    assert isinstance(error, NotFound)
    assert error.error_details == ()


def test_rich_details_of_unknown_or_broken_types_stay_packed() -> None:
    known = any_pb2.Any()
    known.Pack(error_details_pb2.RetryInfo())
    strangers = [
        any_pb2.Any(type_url="type.googleapis.com/no.such.Type", value=b"\x01"),
        any_pb2.Any(type_url="", value=b"\xff"),
        any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff"),
    ]
    error = from_aio(received(grpc.StatusCode.NOT_FOUND, (DETAILS_KEY, rich(5, known, *strangers))))
    assert error.error_details == (error_details_pb2.RetryInfo(), *strangers)
    # Passed on, they travel as they came.
    wire = to_wire(NotFound("on", error_details=error.error_details))
    assert status_pb2.Status.FromString(dict(wire.trailing)[DETAILS_KEY]).details == [known, *strangers]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error", [received(99), received(None), received(grpc.StatusCode.UNKNOWN, details=None)]
)
def test_a_status_that_grpc_does_not_know_is_unknown(error: AioRpcError) -> None:
    ours = from_aio(error)
    assert ours.code() is grpc.StatusCode.UNKNOWN
    assert isinstance(ours, RpcError)
    assert isinstance(ours.details(), str)


def test_metadata_given_as_plain_pairs_or_not_at_all_is_taken() -> None:
    code = grpc.StatusCode.UNAVAILABLE
    pairs: Any = (("pymicro-not-started", "1"),)
    nothing: Any = None
    assert from_aio(AioRpcError(code, nothing, pairs)).from_peer is True
    error = from_aio(AioRpcError(code, nothing, nothing))
    assert isinstance(error, Unavailable)
    assert tuple(error.trailing_metadata() or ()) == ()


def test_text_is_cut_by_its_size_on_the_wire() -> None:
    assert clip("x" * 100, 100) == "x" * 100
    assert clip("x" * 101, 100) == "x" * 97 + "..."
    assert clip("ü" * 100, 100) == "ü" * 16 + "..."  # six characters each
    assert clip("a\udc80b") == "a?b"
    assert clip("") == ""
