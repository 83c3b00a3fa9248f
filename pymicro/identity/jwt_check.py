"""Whether a token is good: its signature, and what it says. The one module that needs the extra `jwt`.

A token's header says which key and which algorithm it was signed with, and whoever writes a token
writes its header. So the header only chooses among what the issuer's keys are for: a key of the kind
RSA checks RSA's signatures, and nothing makes it a password of HMAC.
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pymicro.base.errors import PluginError
from pymicro.base.printable import excerpt, shortened
from pymicro.identity.caller import KnownCaller
from pymicro.identity.verdict import Proven, Rejected, Verdict

if TYPE_CHECKING:
    from jwt import PyJWK

__all__ = [
    "BadKeys",
    "JwtKeys",
    "KeyWanted",
    "WantedClaims",
    "check_token",
    "issuer_in",
    "keys_of",
    "need_pyjwt",
]

# Keys of one issuer: Kubernetes has two or three, large issuers some ten.
_MOST_KEYS = 100
# Bits of an RSA key. Below, it can be broken; above, one signature takes milliseconds.
_LEAST_RSA, _MOST_RSA = 2048, 8192
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
# What a verifier needs of a key. What else is in there, a private half even, is left out.
_PUBLIC = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
# Characters of a subject.
_LONGEST = 1000


class BadKeys(Exception):
    """Keys that cannot be used; the text is one sentence for people."""


def need_pyjwt() -> None:
    """Load what checks tokens.

    Raises:
        PluginError: It is not installed.
    """
    try:
        import jwt.algorithms

        has_crypto = jwt.algorithms.has_crypto
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != "jwt":
            raise
        raise PluginError("tokens need PyJWT: pip install 'pymicro-grpc[jwt]'") from exc
    if not has_crypto:
        raise PluginError("tokens need PyJWT with cryptography: pip install 'pymicro-grpc[jwt]'")


@dataclass(frozen=True, slots=True)
class JwtKeys:
    """The public keys of an issuer.

    Attributes:
        by_id: By its id and an algorithm, the keys that check such signatures.
        count: How many there are.
        digest: Equal for equal documents.
    """

    by_id: Mapping[tuple[str, str], Sequence[PyJWK]] = field(repr=False)
    count: int
    digest: bytes = field(repr=False)

    def find(self, kid: str | None, algorithm: str) -> Sequence[PyJWK]:
        """The keys that may have signed a token whose header says this."""
        if kid is not None:
            return self.by_id.get((kid, algorithm), ())
        if self.count != 1:
            return ()
        return next((keys for (_, one), keys in self.by_id.items() if one == algorithm), ())

    def knows(self, kid: str | None) -> bool:
        """Whether there is a key of that id."""
        return kid is not None and any(kid == one for one, _ in self.by_id)


def keys_of(data: bytes, where: str) -> JwtKeys:
    """The keys in a JWKS document (RFC 7517) that can check signatures.

    Args:
        data: The document.
        where: Where it comes from, for messages.

    Raises:
        BadKeys: It is none, or none of its keys can be used.
    """
    from jwt import PyJWK, PyJWTError

    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise BadKeys(f"{where} is no JSON: {shortened(str(exc))}") from exc
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise BadKeys(f"{where} has no list `keys`: it is no set of keys (JWKS)")
    if len(listed) > _MOST_KEYS:
        raise BadKeys(f"{where} has {len(listed)} keys, which is more than {_MOST_KEYS}")
    found: dict[tuple[str, str], list[PyJWK]] = {}
    count, problem = 0, "it is empty"
    for place, key in enumerate(listed):
        try:
            algorithms, public = _usable(key)
            made = [(one, PyJWK(public, one)) for one in algorithms]
        except (BadKeys, PyJWTError, ValueError, TypeError, KeyError) as exc:
            problem = f"key {place}: {shortened(str(exc))}"
            continue
        count += 1
        for algorithm, one in made:
            found.setdefault((public.get("kid", ""), algorithm), []).append(one)
    if not count:
        raise BadKeys(f"{where} has no key that can check signatures ({problem})")
    return JwtKeys(found, count, sha256(data).digest())


def _usable(key: object) -> tuple[Sequence[str], dict[str, str]]:
    """What a key checks, and its public half.

    Raises:
        BadKeys: It checks no signatures of tokens.
    """
    if not isinstance(key, dict):
        raise BadKeys(f"{excerpt(key)} is no key")
    kind, kid = key.get("kty"), key.get("kid", "")
    if not isinstance(kind, str) or kind not in _PUBLIC:
        raise BadKeys(f"kty {excerpt(kind)} is none of {', '.join(_PUBLIC)}")
    if not isinstance(kid, str):
        raise BadKeys("kid is no text")
    operations = key.get("key_ops", ["verify"])
    if key.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise BadKeys("it is not for signatures")
    public = {"kty": kind, "kid": kid}
    for name in _PUBLIC[kind]:
        value = key.get(name)
        if not isinstance(value, str):
            raise BadKeys(f"{name} is no text")
        public[name] = value
    allowed = _algorithms(public)
    said = key.get("alg")
    if said is None:
        return allowed, public
    if said not in allowed:
        raise BadKeys(f"alg {excerpt(said)} is nothing that a key of kind {kind} is believed for")
    return (said,), public


def _algorithms(public: Mapping[str, str]) -> Sequence[str]:
    if public["kty"] == "RSA":
        try:
            bits = int.from_bytes(urlsafe_b64decode(public["n"] + "==")).bit_length()
        except (binascii.Error, ValueError) as exc:
            raise BadKeys("n is no base64") from exc
        if not _LEAST_RSA <= bits <= _MOST_RSA:
            raise BadKeys(f"it has {bits} bits, and {_LEAST_RSA} to {_MOST_RSA} are wanted")
        return _RSA
    if public["kty"] == "OKP":
        if public["crv"] not in ("Ed25519", "Ed448"):
            raise BadKeys(f"crv {excerpt(public['crv'])} signs nothing")
        return ("EdDSA",)
    if public["crv"] not in _CURVES:
        raise BadKeys(f"crv {excerpt(public['crv'])} is none of {', '.join(_CURVES)}")
    return (_CURVES[public["crv"]],)


@dataclass(frozen=True, slots=True)
class WantedClaims:
    """What a token has to say.

    Attributes:
        issuer: Its `iss`.
        audiences: One of them has to be in its `aud`.
        prefix: What stands before its subject in the caller's name: `token:`, or more.
        leeway: Seconds that two clocks may differ.
    """

    issuer: str
    audiences: tuple[str, ...]
    prefix: str
    leeway: float


@dataclass(frozen=True, slots=True)
class KeyWanted:
    """A token cannot be checked before its issuer's keys are known anew.

    Attributes:
        rejected: What it comes to if they cannot be had.
    """

    rejected: Rejected


def issuer_in(token: str) -> str | None:
    """Who has issued a token, by its own word; None if it does not say, or is no token."""
    import jwt

    try:
        said = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except Exception:  # also a bug of the parser's: a stranger has written this
        return None
    return said if isinstance(said, str) else None


def check_token(token: str, wanted: WantedClaims, keys: JwtKeys) -> Verdict | KeyWanted:
    """Check a token. It takes some 0.1 to 0.5 ms, and never raises.

    Args:
        token: Of bounded size.
        wanted: What it has to say.
        keys: Of its issuer.
    """
    import jwt

    try:
        return _checked(token, wanted, keys)
    except jwt.ExpiredSignatureError:
        return Rejected("it has expired")
    except jwt.ImmatureSignatureError:
        return Rejected("it is not valid yet: nbf or iat is in the future")
    except jwt.InvalidAudienceError:
        return Rejected(f"its audience is another one than {', '.join(wanted.audiences)}")
    except jwt.InvalidIssuerError:
        return Rejected("its issuer is none that is believed here")
    except jwt.MissingRequiredClaimError as exc:
        return Rejected(f"it has no {shortened(exc.claim, 20)}")
    except jwt.InvalidSignatureError:
        return Rejected("its signature is not by the key that it names")
    except jwt.DecodeError:
        return Rejected("it is cut off, or no token (JWT)")
    except jwt.PyJWTError:
        return Rejected("what it says cannot be used")
    except Exception:  # numbers without end, lists without bottom: a stranger has written it
        return Rejected("it cannot be read")


def _checked(token: str, wanted: WantedClaims, keys: JwtKeys) -> Verdict | KeyWanted:
    import jwt

    header = jwt.get_unverified_header(token)
    algorithm, kid = header.get("alg"), header.get("kid")
    if "crit" in header or "b64" in header:
        return Rejected("its header asks for extensions that are not known here")
    if not isinstance(algorithm, str) or (
        algorithm not in _RSA and algorithm not in (*_CURVES.values(), "EdDSA")
    ):
        return Rejected("it is not signed in a way that is believed here (RS, PS, ES, EdDSA)")
    candidates = keys.find(kid, algorithm)
    if not candidates:
        if kid is None:
            return Rejected("it does not name its key (kid)")
        if keys.knows(kid):
            return Rejected("its key is not for the algorithm that it names")
        return KeyWanted(Rejected("its issuer has no key of that name (kid)"))
    for place, key in enumerate(candidates):
        try:
            said = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=list(wanted.audiences),
                issuer=wanted.issuer,
                leeway=wanted.leeway,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            break
        except jwt.InvalidSignatureError:
            if place + 1 == len(candidates):
                raise
        except jwt.DecodeError:  # the header was read, and the issuer, so the token is whole
            return Rejected("its exp or its nbf is no number of seconds")
    subject = said["sub"]
    if not isinstance(subject, str) or not subject or len(subject) > _LONGEST:
        return Rejected("its sub names nobody")
    caller = KnownCaller(principal=wanted.prefix + subject, claims=_frozen(said))
    return Proven(caller, float(said["exp"]) + wanted.leeway)


def _frozen(value: Any) -> Any:
    """The same, so that no handler changes what others are told of the same caller."""
    if isinstance(value, dict):
        return MappingProxyType({key: _frozen(one) for key, one in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
