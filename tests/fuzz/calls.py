"""Parsers of what callers and servers send along with a call."""

from __future__ import annotations

import json
from functools import cache, partial

import grpc
from google.protobuf import api_pb2, struct_pb2, timestamp_pb2, type_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc.aio import AioRpcError, Metadata
from hypothesis import strategies as st

from pymicro.rpc.schema import (
    JsonError,
    Schema,
    SchemaError,
    Symbols,
    UnknownTypes,
    file_text,
    from_json,
    to_json,
    to_raw_json,
)
from pymicro.rpc.status import NotFound, RpcError
from pymicro.rpc.wire.gomicro import dump_error, load_error, read_status
from pymicro.rpc.wire.metadata import checked, why_not_forwarded
from pymicro.rpc.wire.status import DETAILS_KEY, from_aio, to_wire
from pymicro.serving.call.rpc_codec import RpcCodec
from pymicro.serving.gomicro.caller import caller_of
from pymicro.serving.gomicro.codecs import in_json, is_json
from pymicro.serving.gomicro.debug import Debug
from pymicro.serving.gomicro.paths import Paths
from pymicro.serving.handlers.mark import handler
from pymicro.serving.handlers.table import build
from tests.fuzz.inputs import TEXTS, VALUES, altered, altered_bytes, altered_text, as_json
from tests.fuzz.parser import Parser, refusal
from tests.protos import zoo_pb2

__all__ = ["PARSERS"]

# Calls

_ERRORS = st.builds(
    dump_error,
    TEXTS,
    st.sampled_from([one for one in grpc.StatusCode if one is not grpc.StatusCode.OK]),
    TEXTS,
)


def _error_text(found: str) -> None:
    error = load_error(found)
    for code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL):
        meant, _, _ = read_status(code, found)
        assert isinstance(meant, grpc.StatusCode)
        assert error is None or isinstance(error.status(code), grpc.StatusCode)


def _error_written(found: tuple[str, grpc.StatusCode, str]) -> None:
    error = load_error(dump_error(*found))
    assert error is not None
    assert (error.id, error.detail) == (found[0], found[2])


def _details() -> tuple[bytes, ...]:
    status = Status(code=5, message="gone")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="R", domain="d", metadata={"a": "b"}))
    status.details.add(type_url="type.googleapis.com/no.such.Type", value=b"\x0a\x01a")
    return status.SerializeToString(), Status(code=5).SerializeToString()


def _rich(found: bytes) -> None:
    received = AioRpcError(grpc.StatusCode.NOT_FOUND, Metadata(), Metadata((DETAILS_KEY, found)), "gone")
    error = from_aio(received)
    assert isinstance(error, NotFound)
    # What arrived can be passed on, and arrives the same.
    sent = to_wire(NotFound("gone", error_details=error.error_details))
    if "error_details" not in sent.dropped:
        again = from_aio(AioRpcError(sent.code, Metadata(), Metadata(*sent.trailing), sent.details))
        assert len(again.error_details) == len(error.error_details)


_KEYS = st.sampled_from(
    ("x-content-type", "micro-from-service", "timeout", "user-agent", "a-bin", ":path", "X-Up", "baggage")
)
_METADATA = st.lists(st.tuples(_KEYS | TEXTS, TEXTS | st.binary(max_size=20)), max_size=5)


def _metadata(found: list[tuple[str, str | bytes]]) -> None:
    for pair in found:
        why_not_forwarded(pair)
    caller = caller_of(found)
    assert caller.timeout is None or 0 <= caller.timeout < 1e10
    is_json(caller.content_type)
    for key, value in checked(found):
        assert key == key.lower()
        assert isinstance(value, bytes) or value.isascii()


def _path(found: str) -> None:
    paths = Paths(["/greeter.v1.Greeter/SayHello", "/shop.Greeter/SayHello", "/a.B/C"])
    paths.like(found)
    assert len(paths.explain(found)) <= 1024


class _Healthy:
    serving = True


class _Keeper:
    """A handler for the messages of the tests' protos."""

    @handler
    async def import_(self, request: zoo_pb2.Animal) -> zoo_pb2.Animal:
        return request


@cache
def _codecs() -> list[RpcCodec]:
    tables, _ = build(_Keeper(), zoo_pb2.DESCRIPTOR.services_by_name["Keeper"])
    handlers = [*Debug(_Healthy()).handlers("shop"), *(one for table in tables for one in table.methods)]  # type: ignore[arg-type]
    every = [*handlers, *(one for one in map(in_json, handlers) if one is not None)]
    return [RpcCodec(one, raw=True, limit=float("inf")) for one in every]


def _request(found: bytes) -> None:
    refused: list[RpcError] = []
    for codec in _codecs():
        try:
            codec.serialize(codec.parse(found))
        except RpcError as exc:
            refused.append(exc)
    if refused:
        raise max(refused, key=lambda error: len(str(error)))


def _json(found: str) -> None:
    for kind in (zoo_pb2.Animal, Status, error_details_pb2.ErrorInfo, FileDescriptorProto):
        message = from_json(found, kind)
        assert from_json(json.dumps(to_json(message)), kind) == message


def _reply(found: bytes) -> None:
    for kind in (struct_pb2.Value, Status, api_pb2.Api, type_pb2.Option):
        try:
            message = kind.FromString(found)
        except DecodeError:
            continue  # grpc does that, and ends the call
        document, odd = to_raw_json(message)
        json.dumps(document)
        assert all(len(line) < 500 for line in odd)


def _files(found: bytes) -> None:
    file = FileDescriptorProto()
    try:
        file.ParseFromString(found)
    except Exception:
        return  # the client of reflection does that, and has an error of its own
    schema = Schema()
    schema.add([file])
    symbols = Symbols(schema.files())
    for known in schema.files():
        file_text(known, symbols)
    list(schema.services())
    for find in (schema.find_method, symbols.find):
        for name in ("no.Such", "a", "S/R"):
            assert len(refusal(partial(find, name), SchemaError)) < 5000  # twenty names, each cut


def _descriptors() -> tuple[bytes, ...]:
    own = FileDescriptorProto()
    zoo_pb2.DESCRIPTOR.CopyToProto(own)
    small = FileDescriptorProto(name="a.proto", package="a", syntax="proto3")
    small.message_type.add(name="M").field.add(name="f", number=1, type=9, label=1)
    small.service.add(name="S").method.add(name="R", input_type=".a.M", output_type=".a.M")
    return own.SerializeToString(), small.SerializeToString()


def _replies() -> tuple[Message, ...]:
    late = AnyMessage(type_url="/google.protobuf.Timestamp")
    late.value = timestamp_pb2.Timestamp(seconds=1 << 50).SerializeToString()
    endless = struct_pb2.Value(number_value=float("inf"))
    return (
        struct_pb2.Value(list_value={"values": [endless, struct_pb2.Value(bool_value=True)]}),
        struct_pb2.Value(struct_value={"fields": {"a": endless}}),
        Status(code=1, details=[late, AnyMessage(value=b"x")]),
        type_pb2.Option(name="a", value=late),
    )


PARSERS = (
    Parser("go-micro error", altered_text(_ERRORS) | as_json(VALUES), _error_text),
    Parser(
        "go-micro error, written",
        st.tuples(TEXTS, st.sampled_from(list(grpc.StatusCode)[1:]), TEXTS),
        _error_written,
    ),
    Parser("rich details", altered_bytes(*_details()), _rich),
    Parser("metadata", _METADATA, _metadata, (ValueError, TypeError)),
    Parser("path", TEXTS | altered_text(st.just("/go.micro.Greeter/SayHello")), _path),
    Parser(
        "request",
        altered_bytes(b'{"name":"x"}', b"null", b"\x0a\x01x")
        | as_json(VALUES).map(lambda one: one.encode(errors="surrogatepass")),
        _request,
        (RpcError,),
        aside=True,
    ),
    Parser(
        "message as JSON",
        as_json(
            altered(
                {"name": "x"},
                {"reason": "r", "metadata": {"a": "b"}},
                {"details": [{"@type": "/google.rpc.ErrorInfo", "reason": "x"}]},
                {"messageType": [{"name": "M", "field": [{"name": "f", "number": 1}]}]},
            )
        ),
        _json,
        (JsonError, UnknownTypes),
        aside=True,
    ),
    Parser("reply", altered_bytes(*(one.SerializeToString() for one in _replies())), _reply),
    Parser("proto file", altered_bytes(*_descriptors()), _files, (SchemaError,), aside=True),
)
