"""An issuer of tokens, and a server that has its keys."""

from __future__ import annotations

import json
import ssl
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

__all__ = ["AUDIENCE", "ISSUER", "Issuer", "KeyServer", "jwk_of", "new_key"]

ISSUER, AUDIENCE = "https://issuer.test", "greeter"
CART = "system:serviceaccount:shop:cart"

_ALGORITHMS = {
    "RSA": jwt.algorithms.RSAAlgorithm,
    "EC": jwt.algorithms.ECAlgorithm,
    "OKP": jwt.algorithms.OKPAlgorithm,
}


def new_key(algorithm: str = "ES256") -> Any:
    """A private key for this algorithm."""
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm.startswith("ES"):
        curve = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}[algorithm]
        return ec.generate_private_key(curve())
    return rsa.generate_private_key(65537, 2048)


def jwk_of(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    """The public half of a key, as issuers publish it."""
    kind = "RSA" if isinstance(key, rsa.RSAPrivateKey) else "OKP"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        kind = "EC"
    made: dict[str, Any] = _ALGORITHMS[kind].to_jwk(key.public_key(), as_dict=True)  # type: ignore[attr-defined]
    if kid is not None:
        made["kid"] = kid
    return {**made, **more}


class Issuer:
    """Issues tokens, and writes its public keys into a file.

    Attributes:
        keys: Its private keys by their ids, with the algorithm of each; the last one signs.
        path: The file.
    """

    def __init__(self, path: Path, algorithm: str = "ES256") -> None:
        self.path = path
        self.keys: dict[str, tuple[str, Any]] = {}
        self.add("one", algorithm)

    def add(self, kid: str, algorithm: str = "ES256", *, publish: bool = True) -> None:
        """Sign with a new key from now on."""
        self.keys[kid] = algorithm, new_key(algorithm)
        if publish:
            self.publish()

    @property
    def document(self) -> bytes:
        """Its keys as it publishes them."""
        return json.dumps({"keys": [jwk_of(key, kid) for kid, (_, key) in self.keys.items()]}).encode()

    def publish(self) -> None:
        """Write its keys."""
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(self.document)
        fresh.replace(self.path)

    def token(self, *, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A token, good unless something else is said; a claim that is None is left out.

        Args:
            header: What is other in its header; `kid` and `alg` too.
            claims: What is other in it.
        """
        now = time.time()
        said = {"iss": ISSUER, "aud": AUDIENCE, "sub": CART, "iat": now, "exp": now + 600, **claims}
        kid, (algorithm, key) = list(self.keys.items())[-1]
        headers = {"kid": kid, **(header or {})}
        return jwt.encode(
            {name: value for name, value in said.items() if value is not None},
            key,
            algorithm,
            headers={name: value for name, value in headers.items() if value is not None},
        )


def unsigned(header: Mapping[str, Any], claims: Mapping[str, Any], signature: bytes = b"") -> str:
    """A token put together by hand."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


class KeyServer:
    """A server over TLS.

    Args:
        context: With its certificate, for 127.0.0.1.
        ca: The authority that is to be believed, as PEM.
        folder: For a file with that.

    Attributes:
        ca_file: That file.
        url: Where it is.
        answer: Status, headers and body of its next answers.
        asked: Paths and headers of requests that came.
        held: While it is cleared, answers wait, as they were when they were asked for.
    """

    def __init__(self, context: ssl.SSLContext, ca: bytes, folder: Path) -> None:
        self.answer: tuple[int, Mapping[str, str], bytes] = 404, {}, b""
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        self.held = threading.Event()
        self.held.set()
        self.ca_file = str(folder / "key-server-ca.pem")
        Path(self.ca_file).write_bytes(ca)
        server = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = server.answer
                server.asked.append((self.path, dict(self.headers)))
                server.held.wait(30)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # of a client that does not believe the certificate

        self._server = Quiet(("127.0.0.1", 0), Answers)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}/jwks"

    def serve(self, issuer: Issuer) -> None:
        """Answer with an issuer's keys as of now."""
        self.answer = 200, {"Content-Type": "application/json"}, issuer.document

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.held.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
