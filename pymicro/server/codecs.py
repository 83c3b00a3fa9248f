"""In which form a caller's messages travel, by its `x-content-type`.

The real content-type is hidden by grpc-core. go-micro's clients send this one along with
every call, and their servers' table of forms is the one here (go-micro v1.18.0,
`server/grpc/codec.go`).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from pymicro.errors import PymicroError
from pymicro.handlers.types import Method
from pymicro.schema import JsonError, SchemaError, from_json, to_json

__all__ = ["ACCEPTED", "Malformed", "in_json", "is_json"]

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


class Malformed(PymicroError):
    """A request that its sender wrote wrongly; the text says where, and is for the sender."""


def is_json(content_type: str) -> bool | None:
    """Whether messages of this `x-content-type` are JSON, else protobuf; None if it is not known here."""
    found = _FORMS.get(content_type)
    if found is None:  # with parameters (`; charset=utf-8`), or in capitals
        return _FORMS.get(content_type.partition(";")[0].strip().lower())
    return found


def in_json(method: Method) -> Method | None:
    """The method with its messages in JSON; None where their types are not known."""
    kind = method.rpc.request_type
    if kind is None or method.rpc.response_type is None:
        return None

    def deserialize(raw: bytes) -> Any:
        try:
            text = raw.decode()
            # As go-micro's reader has it; its API gateway sends it for a GET without a query.
            return kind() if text.strip() == "null" else from_json(text, kind)
        except UnicodeDecodeError as exc:
            raise Malformed(f"the request is no UTF-8 at byte {exc.start}") from exc
        except JsonError as exc:
            place = f", line {exc.line}, column {exc.column}" if exc.column else ""
            raise Malformed(f"the request as JSON{place}: {exc}") from exc
        except SchemaError as exc:
            raise Malformed(f"the request as JSON: {exc}") from exc

    return replace(method, deserialize=deserialize, serialize=_serialize)


def _serialize(message: Any) -> bytes:
    return json.dumps(to_json(message), ensure_ascii=False, separators=(",", ":")).encode()
