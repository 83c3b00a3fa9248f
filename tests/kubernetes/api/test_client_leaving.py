"""A stream over TLS that is left goes at once, whatever the server does."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import threading
from pathlib import Path

from pymicro.kubernetes.api.client import KubeClient
from pymicro.kubernetes.api.credentials import find_cluster
from tests.kubernetes.api.certificates import OLD_CA, old_server


class Mute:
    """A server that answers one request with the first line of a stream and then says no more.

    Not even when the client ends the TLS session, as one that was cut off or stopped.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._received, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = tls.wrap_bio(self._received, self._sent, server_side=True)
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Mute:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(20)
        with connection, contextlib.suppress(TimeoutError):
            asked = b""
            greeted = False
            while b"\r\n\r\n" not in asked:
                self._received.write(connection.recv(1 << 16))
                try:
                    if not greeted:
                        self._session.do_handshake()
                        greeted = True
                    asked += self._session.read(1 << 16)
                except ssl.SSLWantReadError:
                    pass
                connection.sendall(self._sent.read())
            self._session.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n")
            connection.sendall(self._sent.read())
            with contextlib.suppress(ConnectionResetError):
                # What it says about the end of the session goes unread.
                while connection.recv(1 << 16):
                    pass
            self.ended.set()


def kubeconfig(folder: Path, port: int) -> str:
    authority = base64.b64encode(OLD_CA.encode()).decode()
    server = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": authority}
    path = folder / "config"
    path.write_text(
        json.dumps(
            {
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": server}],
                "users": [{"name": "c", "user": {"token": "t"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
            }
        )
    )
    return f"kubeconfig={path}"


async def test_a_stream_that_is_left_ends_its_connection_though_the_server_is_mute(tmp_path: Path) -> None:
    with Mute(old_server(tmp_path)) as server:
        cluster = await find_cluster([kubeconfig(tmp_path, server.port)], environ={})
        async with KubeClient(cluster) as client:
            async with client.stream("/pods", {"watch": "1"}, connect_timeout=10, idle_timeout=10) as lines:
                assert await anext(lines) == b"first"
            # Before the client is left: a reflector leaves one stream and opens the next.
            assert await asyncio.to_thread(server.ended.wait, 5.0)
