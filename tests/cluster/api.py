"""A plain blocking client of an API server: JSON in, JSON out, one identity."""

from __future__ import annotations

import copy
import http.client
import json
import ssl
from collections import deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

STRATEGIC = "application/strategic-merge-patch+json"


class Refused(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, answer: Any) -> None:
        self.status = status
        self.answer = answer
        said = answer.get("message") if isinstance(answer, dict) else answer
        super().__init__(f"{status}: {said}")


class Connections:
    """Kept-open connections to one server, each used by one request at a time."""

    def __init__(self, host: str, port: int, ca_file: str, timeout: float) -> None:
        self._host = host
        self._port = port
        self._timeout = timeout
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._idle: deque[http.client.HTTPSConnection] = deque()

    def ask(self, method: str, target: str, data: str | None, headers: Mapping[str, str]) -> tuple[int, str]:
        """Status and body of the answer."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            try:
                return self._ask(connection, method, target, data, headers)
            except TimeoutError:
                raise
            except (http.client.HTTPException, OSError):
                # The server may have closed a kept connection at any time since; ask anew.
                continue
        fresh = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._tls)
        return self._ask(fresh, method, target, data, headers)

    def _ask(
        self,
        connection: http.client.HTTPSConnection,
        method: str,
        target: str,
        data: str | None,
        headers: Mapping[str, str],
    ) -> tuple[int, str]:
        try:
            connection.request(method, target, data, headers)
            response = connection.getresponse()
            text = response.read().decode()
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return response.status, text

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


class Api:
    """Requests to one API server as whoever `token` belongs to, from any thread.

    `close` is for the one made first; those of `as_token` share its connections.
    """

    def __init__(
        self,
        host: str,
        port: int,
        ca_file: str,
        token: str,
        *,
        timeout: float = 30.0,
    ) -> None:
        self._identity = {"Authorization": f"Bearer {token}"}
        self._connections = Connections(host, port, ca_file, timeout)

    def as_token(self, token: str) -> Api:
        """The same API server, as somebody else."""
        return self._as({"Authorization": f"Bearer {token}"})

    def as_user(self, name: str) -> Api:
        """The same API server, as this user; for who may impersonate."""
        return self._as({**self._identity, "Impersonate-User": name})

    def _as(self, identity: Mapping[str, str]) -> Api:
        other = copy.copy(self)
        other._identity = dict(identity)
        return other

    def close(self) -> None:
        """Close the connections; a later request opens another."""
        self._connections.close()

    def request(
        self, method: str, path: str, body: Any = None, *, kind: str = "application/json", **params: str
    ) -> Any:
        """The parsed answer.

        Raises:
            Refused: The server answered 400 or more.
            OSError, http.client.HTTPException: It did not answer.
        """
        headers = {**self._identity, "Accept": "application/json"}
        data = None
        if body is not None:
            data = json.dumps(body)
            headers["Content-Type"] = kind
        status, text = self._connections.ask(
            method, f"{path}?{urlencode(params)}" if params else path, data, headers
        )
        try:
            answer = json.loads(text)
        except ValueError:
            answer = text
        if status >= 400:
            raise Refused(status, answer)
        return answer

    def get(self, path: str, **params: str) -> Any:
        return self.request("GET", path, **params)

    def post(self, path: str, body: Any) -> Any:
        return self.request("POST", path, body)

    def put(self, path: str, body: Any) -> Any:
        return self.request("PUT", path, body)

    def patch(self, path: str, body: Any, *, kind: str = STRATEGIC) -> Any:
        return self.request("PATCH", path, body, kind=kind)

    def delete(self, path: str, *, grace: int | None = None) -> Any:
        options = {} if grace is None else {"gracePeriodSeconds": grace}
        return self.request("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", **options})
