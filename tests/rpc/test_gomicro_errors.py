"""go-micro's errors as text, and back."""

from __future__ import annotations

import json

import grpc
import pytest

from pymicro.rpc.wire.gomicro import ErrorJson, dump_error, load_error

CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_a_status_survives_the_way_through_json(code: grpc.StatusCode) -> None:
    error = load_error(dump_error("greeter", code, 'no such "order"\n'))
    assert error is not None
    assert (error.id, error.detail) == ("greeter", 'no such "order"\n')
    # With UNKNOWN a Go server says nothing but that its table lacks the number.
    assert error.status(code) is (code if code is not grpc.StatusCode.UNKNOWN else grpc.StatusCode.INTERNAL)


def test_the_text_is_what_a_go_client_reads() -> None:
    text = dump_error("greeter", grpc.StatusCode.NOT_FOUND, "größe")
    assert text.isascii()
    assert json.loads(text) == {"id": "greeter", "code": 404, "detail": "größe", "status": "Not Found"}


@pytest.mark.parametrize(
    ("http", "received", "meant"),
    [
        # What go-micro's own server sends beside its JSON (server/grpc/error.go).
        (400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
        (404, "NOT_FOUND", "NOT_FOUND"),
        (408, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
        (409, "ALREADY_EXISTS", "ALREADY_EXISTS"),
        (500, "INTERNAL", "INTERNAL"),
        # Not in its table: it sends UNKNOWN.
        (405, "UNKNOWN", "UNIMPLEMENTED"),
        (429, "UNKNOWN", "RESOURCE_EXHAUSTED"),
        (418, "UNKNOWN", "UNKNOWN"),
        (700, "UNKNOWN", "UNKNOWN"),
        # A handler's error that a plain gRPC layer has wrapped: the JSON knows better.
        (404, "UNKNOWN", "NOT_FOUND"),
        (404, "INTERNAL", "NOT_FOUND"),
        (500, "UNKNOWN", "INTERNAL"),
    ],
)
def test_the_code_in_the_json_decides(http: int, received: str, meant: str) -> None:
    assert ErrorJson("greeter", http, "").status(grpc.StatusCode[received]).name == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no such order",
        "{",
        "{}",
        "[404]",
        "null",
        '{"id":"a","code":0,"detail":"b"}',
        '{"id":"a","code":-1,"detail":"b"}',
        '{"id":"a","code":true,"detail":"b"}',
        '{"id":"a","code":"404","detail":"b"}',
        '{"id":"a","code":4294967296,"detail":"b"}',
        '{"id":1,"code":404,"detail":"b"}',
        '{"id":"a","code":404,"detail":["b"]}',
        '{"message":"not found"}',
        '{"code":5,"message":"not found"}',
        '{"code":17,"reason":"STOCK","detail":"none left"}',
        "{" * 100_000,
        '{"a":' * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_other_texts_are_no_errors_of_go_micro(text: str) -> None:
    assert load_error(text) is None


def test_what_may_be_missing_may_be_missing() -> None:
    assert load_error('{"code":404}') == ErrorJson("", 404, "")
