"""In which form a caller's messages travel, by its `x-content-type`.

The real content-type is hidden by grpc-core. go-micro's clients send this one along with
every call, and their servers' table of forms is the one here (go-micro v1.18.0,
`server/grpc/codec.go`).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from pymicro.base.errors import PymicroError
from pymicro.rpc.schema import JsonError, SchemaError, from_json, to_json
from pymicro.serving.handlers.types import RpcHandler

__all__ = ["ACCEPTED", "Misfit", "NotJson", "in_json", "is_json"]

# Whether it is JSON. `application/grpc+bytes` is how proxies hand on what they do not parse:
# the bytes of a protobuf message.
_FORMS = {
    "": False,
    "application/grpc": False,
    "application/grpc+proto": False,
    "application/grpc+bytes": False,
    "application/proto": False,
    "application/protobuf": False,
    "application/octet-stream": False,
    "application/json": True,
    "application/grpc+json": True,
}

ACCEPTED = tuple(name for name in _FORMS if name)


class NotJson(PymicroError):
    """A request that is no JSON; the text says where, and is for the sender.

    INTERNAL, as gRPC has it for bytes that do not parse. That heals a fault of go-micro's
    client, too: it keeps the codec of a connection's first call for all that follow, so the
    first one in another codec arrives in the wrong form, and is tried again on a new
    connection for a 500 only.
    """


class Misfit(PymicroError):
    """A request whose JSON does not fit the message: INVALID_ARGUMENT, as trying again does not help."""


def is_json(content_type: str) -> bool | None:
    """Whether messages of this `x-content-type` are JSON, else protobuf; None if it is not known here."""
    found = _FORMS.get(content_type)
    if found is None:  # with parameters (`; charset=utf-8`), or in capitals
        return _FORMS.get(content_type.partition(";")[0].strip().lower())
    return found


def in_json(handler: RpcHandler) -> RpcHandler | None:
    """The method with its messages in JSON; None where their types are not known."""
    kind = handler.rpc.request_type
    if kind is None or handler.rpc.response_type is None:
        return None

    def deserialize(raw: bytes) -> Any:
        try:
            text = raw.decode()
            # As go-micro's reader has it; its API gateway sends it for a GET without a query.
            return kind() if text.strip() == "null" else from_json(text, kind)
        except UnicodeDecodeError as exc:
            raise NotJson(f"the request is no UTF-8 at byte {exc.start}, so no JSON") from exc
        except JsonError as exc:
            if exc.column:
                raise NotJson(f"the request, line {exc.line}, column {exc.column}: {exc}") from exc
            raise Misfit(f"the request does not fit: {exc}") from exc
        except SchemaError as exc:
            raise Misfit(f"the request does not fit: {exc}") from exc

    return replace(handler, deserialize=deserialize, serialize=_serialize)


def _serialize(message: Any) -> bytes:
    return json.dumps(to_json(message), ensure_ascii=False, separators=(",", ":")).encode()
