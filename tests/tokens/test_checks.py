"""Which tokens are good, whatever a stranger writes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from pymicro import bearer_token
from pymicro.base.errors import ConfigError, PluginError
from pymicro.identity import jwt_check
from pymicro.identity.accepted import api_keys, bearer_jwt
from pymicro.identity.bearer_tokens import BearerTokens
from pymicro.identity.jwt_check import BadKeys, JwtKeys, KeyWanted, WantedClaims, check_token, keys_of
from pymicro.identity.verdict import Proven, Rejected
from tests.tokens.issuer import AUDIENCE, CART, ISSUER, Issuer, jwk_of, new_key, unsigned

WANTED = WantedClaims(ISSUER, (AUDIENCE, "greeter.shop"), "token:", 30.0)


def verdict(token: str, issuer: Issuer, keys: JwtKeys | None = None) -> Any:
    found = check_token(token, WANTED, keys or keys_of(issuer.document, "jwks"))
    return found.rejected if isinstance(found, KeyWanted) else found


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512", "RS256", "RS512", "PS256", "EdDSA"])
def test_a_good_token_tells_who_calls(tmp_path: Path, algorithm: str) -> None:
    issuer = Issuer(tmp_path / "jwks.json", algorithm)
    exp = int(time.time()) + 100
    token = issuer.token(exp=exp, groups=["a", "b"], more={"pod": {"name": "cart-1"}})
    found = verdict(token, issuer)
    assert isinstance(found, Proven), found
    assert found.until == exp + 30
    caller = found.caller
    assert (caller.principal, caller.title, caller.ids) == (f"token:{CART}", f"token:{CART}", ())
    assert caller.claims["groups"] == ("a", "b")
    assert caller.claims["more"]["pod"]["name"] == "cart-1"
    with pytest.raises(TypeError):
        caller.claims["more"]["pod"]["name"] = "cart-2"
    assert token not in repr(found)
    assert "cart-1" not in repr(caller)
    assert hash(caller)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"iss": "https://issuer.test/"}, "its issuer is none that is believed here"),
        ({"iss": None}, "it has no iss"),
        ({"aud": "other"}, "its audience is another one than greeter, greeter.shop"),
        ({"aud": ["other", "greeter2"]}, "its audience is another one than"),
        ({"aud": []}, "it has no aud"),
        ({"aud": None}, "it has no aud"),
        ({"exp": 1000}, "it has expired"),
        ({"exp": None}, "it has no exp"),
        ({"exp": "soon"}, "its exp or its nbf is no number of seconds"),
        ({"nbf": "soon"}, "its exp or its nbf is no number of seconds"),
        ({"exp": float("inf")}, "it"),
        ({"exp": float("nan")}, "its exp or its nbf is no number of seconds"),
        ({"exp": [1]}, "it"),
        ({"nbf": 9e9}, "it is not valid yet"),
        ({"iat": 9e9}, "it is not valid yet"),
        ({"sub": None}, "it has no sub"),
        ({"sub": ""}, "its sub names nobody"),
        ({"sub": "x" * 1001}, "its sub names nobody"),
    ],
)
def test_a_token_that_says_something_else_is_not_taken(issuer: Issuer, claims: Any, why: str) -> None:
    found = verdict(issuer.token(**claims), issuer)
    assert isinstance(found, Rejected)
    assert why in found.why


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["other", "greeter.shop"]},
        {"exp": -5},
        {"nbf": +5, "iat": +5},
    ],
    ids=["one of several audiences", "a little late", "a little early"],
)
def test_clocks_may_differ_a_little(issuer: Issuer, claims: Any) -> None:
    now = time.time()
    claims = {name: now + value if isinstance(value, int) else value for name, value in claims.items()}
    assert isinstance(verdict(issuer.token(**claims), issuer), Proven)


def test_nobody_signs_with_what_is_public(tmp_path: Path) -> None:
    """The algorithm of a token's header must not make a public key a password (RFC 8725, 2.1)."""
    issuer = Issuer(tmp_path / "jwks.json", "RS256")
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "root", "exp": time.time() + 100}
    pem = (
        issuer.keys["one"][1]
        .public_key()
        .public_bytes(jwt_serialization().Encoding.PEM, jwt_serialization().PublicFormat.SubjectPublicKeyInfo)
    )
    for secret in (pem, issuer.document, b""):
        token = unsigned({"alg": "HS256", "kid": "one"}, claims)
        signed = token.rpartition(".")[0]
        mac = hmac.digest(secret, signed.encode(), hashlib.sha256)
        forged = f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
        assert "not signed in a way that is believed" in verdict(forged, issuer).why
    for algorithm in ("none", "None", "nOnE", "", None, 7, ["RS256"], "ES256K", "RS1", "dir"):
        found = verdict(unsigned({"alg": algorithm, "kid": "one"}, claims), issuer)
        assert isinstance(found, Rejected), algorithm
    # The key is RSA: an algorithm of another kind is not even tried.
    assert (
        "not for the algorithm"
        in verdict(unsigned({"alg": "ES256", "kid": "one"}, claims, b"x" * 64), issuer).why
    )


def jwt_serialization() -> Any:
    from cryptography.hazmat.primitives import serialization

    return serialization


def test_a_key_in_the_token_itself_is_not_believed(issuer: Issuer, tmp_path: Path) -> None:
    thief = Issuer(tmp_path / "thief.json")
    own = jwk_of(thief.keys["one"][1], "one")
    for header in ({"jwk": own}, {"jku": "https://thief.test/jwks"}, {"x5u": "https://thief.test"}):
        assert "its signature is not by the key" in verdict(thief.token(header=header), issuer).why
    assert "no key of that name" in verdict(thief.token(header={"kid": "two"}), issuer).why
    assert (
        "does not name its key"
        in verdict(thief.token(header={"kid": None}), issuer, keys_of(two_keys(issuer), "jwks")).why
    )
    assert "extensions" in verdict(issuer.token(header={"crit": ["b64"], "b64": False}), issuer).why
    assert isinstance(verdict(issuer.token(header={"crit": ["x"], "x": 1}), issuer), Rejected)


def two_keys(issuer: Issuer) -> bytes:
    listed = json.loads(issuer.document)["keys"]
    return json.dumps({"keys": [*listed, jwk_of(new_key(), "more")]}).encode()


def test_whatever_a_stranger_writes_is_a_sentence(issuer: Issuer) -> None:
    good = issuer.token()
    head, body, signature = good.split(".")
    deep = base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("=")
    for token in (
        "", ".", "..", "...", "a.b.c", "Bearer x", good[:-20], good[:40], f"{head}.{body}", f"{head}.{body}.",
        f"{head}..{signature}", f"{deep}.{body}.{signature}", f"{head}.{deep}.{signature}", "\ud800", "é.é.é",
        f"{body}.{head}.{signature}", good + "A", good.replace(".", " "), "eyJ" * 2000,
    ):  # fmt: skip
        found = verdict(token, issuer)
        assert isinstance(found, Rejected), token
        assert found.why
        assert found.why.isprintable()


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[]", "has no list `keys`"),
        (b'{"keys": []}', r"has no key that can check signatures \(it is empty\)"),
        (b'{"keys": [7]}', "key 0: 7 is no key"),
        (b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "kty 'oct' is none of RSA, EC, OKP"),
        (b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}', "it has 17 bits, and 2048 to 8192"),
        (b'{"keys": [{"kty": "EC", "crv": "secp256k1", "x": "", "y": ""}]}', "crv 'secp256k1' is none of"),
        (b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}', "key 0: "),
        (b'{"keys": [' + b",".join([b"{}"] * 101) + b"]}", "has 101 keys, which is more than 100"),
    ],
)
def test_keys_that_cannot_be_used_are_a_sentence(document: bytes, why: str) -> None:
    with pytest.raises(BadKeys, match=why):
        keys_of(document, "jwks.json")


def test_a_key_checks_what_it_is_for(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path / "jwks.json", "RS256")
    key = issuer.keys["one"][1]
    other = jwk_of(new_key(), "other")
    for more in (
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"alg": "HS256"},
        {"alg": "none"},
        {"alg": "RSA-OAEP"},
    ):
        keys = keys_of(json.dumps({"keys": [jwk_of(key, "one", **more), other]}).encode(), "jwks")
        assert keys.count == 1
        assert isinstance(verdict(issuer.token(), issuer, keys), Rejected)
    only = keys_of(json.dumps({"keys": [jwk_of(key, "one", alg="PS256")]}).encode(), "jwks")
    assert "not for the algorithm" in verdict(issuer.token(), issuer, only).why
    issuer.keys["one"] = "PS256", key
    assert isinstance(verdict(issuer.token(), issuer, only), Proven)


def test_a_private_half_and_a_key_without_a_name_do_no_harm(issuer: Issuer) -> None:
    key = issuer.keys["one"][1]
    private = jwt.algorithms.ECAlgorithm.to_jwk(key, as_dict=True)
    keys = keys_of(json.dumps({"keys": [private]}).encode(), "jwks")
    assert "d" in private
    assert isinstance(verdict(issuer.token(header={"kid": None}), issuer, keys), Proven)


def test_two_keys_of_one_name_are_both_tried(issuer: Issuer) -> None:
    document = {"keys": [jwk_of(new_key(), "one"), jwk_of(issuer.keys["one"][1], "one")]}
    assert isinstance(verdict(issuer.token(), issuer, keys_of(json.dumps(document).encode(), "jwks")), Proven)


# What came of checks


async def test_a_token_is_checked_once_and_known_until_it_expires(issuer: Issuer) -> None:
    now = time.time()
    clock = [now]
    async with BearerTokens([bearer_jwt(ISSUER, AUDIENCE, str(issuer.path))], lambda: clock[0]) as tokens:
        token = issuer.token(exp=now + 100)
        assert tokens.known(token) is None
        assert isinstance(await tokens.ask(token, "a"), Proven)
        assert tokens.checks == 1
        clock[0] = now + 129
        assert isinstance(tokens.known(token), Proven)
        clock[0] = now + 131
        assert tokens.known(token) == Rejected("it has expired")
        assert tokens.checks == 1


async def test_a_bad_token_is_known_for_a_while(issuer: Issuer) -> None:
    clock = [time.time()]
    async with BearerTokens([bearer_jwt(ISSUER, AUDIENCE, str(issuer.path))], lambda: clock[0]) as tokens:
        token = issuer.token(aud="other")
        assert isinstance(await tokens.ask(token, "a"), Rejected)
        assert isinstance(tokens.known(token), Rejected)
        clock[0] += 11
        assert tokens.known(token) is None
        assert isinstance(tokens.known("x" * 8193), Rejected)


async def test_several_issuers_are_told_apart(tmp_path: Path) -> None:
    one, two = Issuer(tmp_path / "one.json"), Issuer(tmp_path / "two.json")
    accepted = [
        bearer_jwt(name, AUDIENCE, str(issuer.path), realm=realm)
        for name, issuer, realm in (("one", one, "a"), ("two", two, "b"))
    ]
    async with BearerTokens(accepted) as tokens:
        for name, issuer, realm in (("one", one, "a"), ("two", two, "b")):
            found = await tokens.ask(issuer.token(iss=name), "host")
            assert isinstance(found, Proven)
            assert found.caller.principal == f"token:{realm}:{CART}"
        # Each is believed for its own tokens only.
        assert isinstance(await tokens.ask(one.token(iss="two"), "host"), Rejected)
    for realms in (("", ""), ("a", ""), ("a", "a")):
        with pytest.raises(ConfigError, match="give each bearer_jwt a realm= of its own"):
            BearerTokens([bearer_jwt("i", "a", "f", realm=realm) for realm in realms])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("", "a", "f"), "issuer '' is no text"),
        (("i", "", "f"), "name what tokens for this service say as aud"),
        (("i", [], "f"), "name what tokens for this service say as aud"),
        (("i", [7], "f"), "name what tokens for this service say as aud"),
        (("i", None, "f"), "audience None: name what tokens for this service say as aud"),
        (("i", "a", ""), "neither an https address nor a file"),
        (("i", "a", "http://issuer.test/jwks"), "keys are fetched over https only"),
        (("i", "a", "file:///etc/passwd"), "keys are fetched over https only"),
        (("i", "a", "https://"), "is no address"),
        (("i", "a", "https://issuer.test:99999/"), "is no address"),
        (("i", "a", "https://[issuer.test/"), "is no address"),
        (("i", "a", "https://issuer.test/a b"), "is no address"),
        (("i", "a", "https://me:secret@issuer.test/"), "^(?!.*secret@).*names a user or a password"),
    ],
)
def test_what_cannot_be_meant_is_told_at_once(arguments: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        bearer_jwt(*arguments)


def test_arguments_of_another_type_are_told_too() -> None:
    for leeway in ("5", None):
        with pytest.raises(ConfigError, match=f"leeway {leeway!r} is no number of seconds"):
            bearer_jwt("i", "a", "f", leeway=leeway)  # type: ignore[arg-type]
    for file in (None, 5, b"keys.toml", ""):
        with pytest.raises(ConfigError, match=f"api_keys: {file!r} is no path of a file"):
            api_keys(file)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"is no path of a file: it is (empty|of type )"):
            bearer_token(file)  # type: ignore[arg-type]


def test_without_pyjwt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jwt", None)
    monkeypatch.setitem(__import__("sys").modules, "jwt.algorithms", None)
    with pytest.raises(PluginError, match=r"pip install 'pymicro-grpc\[jwt\]'"):
        jwt_check.need_pyjwt()
