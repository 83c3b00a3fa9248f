"""The form of a caller's messages, by its `x-content-type`.

grpc-core hides the real content-type. go-micro's clients send this key along with every
call, and the table of forms here is the one of their servers (go-micro v1.18.0,
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

# Whether it is JSON. Proxies use `application/grpc+bytes` to pass on what they do not parse: the
# bytes of a protobuf message.
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

# json_format is written in Python, and takes up to 2.5 ms for a KB of empty messages.
_SLOW_FROM = 4 << 10

ACCEPTED = tuple(name for name in _FORMS if name)


class NotJson(PymicroError):
    """A request is not valid JSON; the text says where, and goes to the sender.

    The status is INTERNAL, as gRPC has it for bytes that do not parse. That also heals a fault
    of go-micro's client: it keeps the codec of a connection's first call for all later calls, so
    the first call in another codec arrives in the wrong form. The client retries it on a new
    connection only after a 500.
    """


class Misfit(PymicroError):
    """A request's JSON does not fit the message: INVALID_ARGUMENT, as a retry does not help."""


def is_json(content_type: str) -> bool | None:
    """True if messages of this `x-content-type` are JSON, False if protobuf, None if it is unknown here."""
    found = _FORMS.get(content_type)
    if found is None:  # it has parameters (`; charset=utf-8`) or capitals
        return _FORMS.get(content_type.partition(";")[0].strip().lower())
    return found


def in_json(handler: RpcHandler) -> RpcHandler | None:
    """The method with its messages in JSON; None if their types are not known."""
    kind = handler.rpc.request_type
    if kind is None or handler.rpc.response_type is None:
        return None

    def deserialize(raw: bytes) -> Any:
        try:
            text = raw.decode()
            # As go-micro's reader does; go-micro's API gateway sends `null` for a GET without a query.
            return kind() if text.strip() == "null" else from_json(text, kind)
        except UnicodeDecodeError as exc:
            raise NotJson(f"the request is no UTF-8 at byte {exc.start}, so no JSON") from exc
        except JsonError as exc:
            if exc.column:
                raise NotJson(f"the request, line {exc.line}, column {exc.column}: {exc}") from exc
            raise Misfit(f"the request does not fit: {exc}") from exc
        except SchemaError as exc:
            raise Misfit(f"the request does not fit: {exc}") from exc

    return replace(handler, deserialize=deserialize, serialize=_serialize, slow_from=_SLOW_FROM)


def _serialize(message: Any) -> bytes:
    return json.dumps(to_json(message), ensure_ascii=False, separators=(",", ":")).encode()
