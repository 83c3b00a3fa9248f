"""Parsers of what callers and issuers send about who calls."""

from __future__ import annotations

import json
import time
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import strategies as st

from pymicro.base.errors import ConfigError
from pymicro.base.printable import printable
from pymicro.identity.jwt_check import BadKeys, JwtKeys, WantedClaims, check_token, issuer_in, keys_of
from pymicro.identity.key_file import read_keys
from pymicro.identity.rules import AllowedCallers
from pymicro.identity.verdict import Proven
from tests.fuzz.inputs import TEXTS, altered, altered_bytes, altered_text
from tests.fuzz.parser import Parser
from tests.tokens.issuer import jwk_of, new_key, unsigned

__all__ = ["PARSERS"]

_WANTED = WantedClaims("https://issuer.test", ("greeter",), "token:", 30.0)
_CLAIMS = {
    "iss": "https://issuer.test", "aud": ["greeter"], "sub": "system:serviceaccount:shop:cart",
    "exp": 4e9, "iat": 1e9, "nbf": 1e9, "kubernetes.io": {"namespace": "shop", "pod": {"name": "cart"}},
}  # fmt: skip
_HEADER = {"alg": "ES256", "kid": "one", "typ": "JWT"}
_JWKS = {"keys": [jwk_of(new_key("ES256"), "one", use="sig"), jwk_of(new_key("EdDSA"), "two", alg="EdDSA")]}


@cache
def _own() -> tuple[ec.EllipticCurvePrivateKey, JwtKeys]:
    key = ec.generate_private_key(ec.SECP256R1())
    return key, keys_of(json.dumps({"keys": [jwk_of(key, "one")]}).encode(), "jwks")


def _claims(found: Any) -> None:
    """What an issuer may say, with a good signature: whatever it is, it is taken or refused."""
    key, keys = _own()
    token = jwt.PyJWS().encode(json.dumps(found).encode(), key, "ES256", {"kid": "one"})
    issuer_in(token)
    verdict = check_token(token, _WANTED, keys)
    if isinstance(verdict, Proven):
        caller = verdict.caller
        assert (caller.claims["iss"], caller.principal) == (_WANTED.issuer, f"token:{caller.claims['sub']}")
        assert verdict.until > time.time()
        # One line, without what a terminal obeys; letters that this Python's Unicode lacks may be in it.
        assert printable(caller.title) == caller.title
        assert len(caller.title.splitlines()) == 1
        assert AllowedCallers(("token:**",)).admit(caller)
        assert not AllowedCallers(("**", "key:**")).admit(caller)


def _forged(found: Any) -> None:
    """What a stranger may write: nothing of it is ever taken."""
    _, keys = _own()
    token = found if isinstance(found, str) else unsigned(*found)
    issuer_in(token)
    assert not isinstance(check_token(token, _WANTED, keys), Proven)


def _jwks(found: Any) -> None:
    keys = keys_of(found if isinstance(found, bytes) else json.dumps(found).encode(), "jwks.json")
    assert 0 < keys.count <= 100
    for (kid, algorithm), ones in keys.by_id.items():
        assert isinstance(kid, str)
        assert not algorithm.startswith(("HS", "none"))
        assert ones


def _keys(found: bytes) -> None:
    for digest, proven in read_keys(found, "keys.toml").values():
        assert len(digest) == 32
        assert proven.caller.principal.startswith("key:")


PARSERS = (
    Parser("claims of a token", altered(_CLAIMS), _claims),
    Parser(
        "token of a stranger",
        st.tuples(altered(_HEADER), altered(_CLAIMS), st.binary(max_size=70))
        | altered_text(st.just(unsigned(_HEADER, _CLAIMS, b"x" * 64)))
        | TEXTS,
        _forged,
    ),
    Parser(
        "keys of an issuer",
        altered(_JWKS) | altered_bytes(json.dumps(_JWKS).encode()) | st.binary(max_size=50),
        _jwks,
        (BadKeys,),
        aside=True,
    ),
    Parser(
        "file with API keys",
        altered_bytes(f"cart = '{'0f' * 32}'\nadmin = ['{'1e' * 32}', '{'2d' * 32}']".encode())
        | st.binary(max_size=50),
        _keys,
        (ConfigError,),
        aside=True,
    ),
)
