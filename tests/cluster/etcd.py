"""etcd beneath an API server, for what the API server does not offer."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
from collections.abc import Mapping
from typing import Any, cast


class Etcd:
    """Requests in JSON, on the Unix socket `path`. From any thread; each keeps a connection of its own.

    Attributes:
        path: On a Unix socket etcd has no port to clash, and is reached from every network namespace.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._threads = threading.local()
        self._open: list[http.client.HTTPConnection] = []

    def ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        connection = self._connection()
        try:
            connection.request("POST", path, json.dumps(body))
            response = connection.getresponse()
            text = response.read().decode()
        except BaseException:
            connection.close()
            self._threads.connection = None
            raise
        if response.status != http.client.OK:
            raise OSError(f"etcd {path}: {response.status} {text}")
        return cast(dict[str, Any], json.loads(text))

    def _connection(self) -> http.client.HTTPConnection:
        kept = getattr(self._threads, "connection", None)
        if kept is not None:
            return cast(http.client.HTTPConnection, kept)
        connection = http.client.HTTPConnection("etcd")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10.0)
        try:
            connection.sock.connect(self.path)
        except OSError:
            connection.close()
            raise
        self._threads.connection = connection
        self._open.append(connection)
        return connection

    def close(self) -> None:
        while self._open:
            self._open.pop().close()

    def revision(self) -> int:
        """The newest one."""
        return int(self.ask("/v3/kv/range", {"key": _text(b"a")})["header"]["revision"])

    def compact(self, revision: int) -> None:
        """Forget everything before it."""
        self.ask("/v3/kv/compaction", {"revision": revision, "physical": True})

    def get(self, key: str) -> bytes:
        (found,) = self.ask("/v3/kv/range", {"key": _text(key.encode())})["kvs"]
        return base64.b64decode(found["value"])

    def put(self, key: str, value: bytes) -> None:
        self.ask("/v3/kv/put", {"key": _text(key.encode()), "value": _text(value)})


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
