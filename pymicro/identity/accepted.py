"""Which tokens and API keys a service takes: what a program says, before anything is opened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike, fspath
from urllib.parse import urlsplit

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt

__all__ = ["Accepted", "AcceptedKeys", "AcceptedTokens", "api_keys", "bearer_jwt", "kubernetes_jwt"]

# Seconds that the clocks of issuer and service may differ.
_LEEWAY = 30.0


@dataclass(frozen=True, slots=True)
class AcceptedTokens:
    """Tokens of one issuer, as `bearer_jwt` and `kubernetes_jwt` make it.

    Attributes:
        issuer: Their `iss`; empty for the issuer of the pod's own token.
        audiences: One of them has to be in their `aud`.
        jwks: Where the issuer's public keys are: an address or a path; empty for the API server of
            the pod's cluster.
        ca: The authorities that are believed of that address; empty for those of the system.
        realm: Tells the issuer's subjects from those of another one; empty where there is one.
        leeway: Seconds that two clocks may differ.
        plain_text: Whether tokens are taken that came in plain text.
    """

    issuer: str
    audiences: tuple[str, ...]
    jwks: str
    ca: str = ""
    realm: str = ""
    leeway: float = _LEEWAY
    plain_text: bool = False

    @property
    def prefix(self) -> str:
        """What stands before a subject in a caller's name."""
        return f"token:{self.realm}:" if self.realm else "token:"


@dataclass(frozen=True, slots=True)
class AcceptedKeys:
    """API keys whose digests are in a file, as `api_keys` makes it.

    Attributes:
        path: The file.
        plain_text: Whether keys are taken that came in plain text.
    """

    path: str
    plain_text: bool = False


Accepted = AcceptedTokens | AcceptedKeys


def bearer_jwt(
    issuer: str,
    audience: str | Iterable[str],
    jwks: str,
    *,
    ca: str = "",
    realm: str = "",
    leeway: float = _LEEWAY,
    plain_text: bool = False,
) -> AcceptedTokens:
    """Take tokens of this issuer: a service's callers send them as `authorization: Bearer …`.

        service = Service("orders", interceptors=[
            bearer_jwt("https://login.example.com", "orders", "https://login.example.com/jwks.json"),
        ])

    It goes into a service's `interceptors`, and is asked before rules, interceptors and handlers, whatever
    its place in the list. A caller's name in rules is `token:` and the token's subject. With it, a call that
    shows neither a token nor a certificate is UNAUTHENTICATED, health excepted.

    Args:
        issuer: What tokens say as `iss`.
        audience: What they have to say as `aud`: the service's own name, so that a token for another
            service is of no use here. One of several is enough.
        jwks: Where the issuer's public keys are: an `https` address, or the path of a file. They are
            fetched beside the calls, and again every five minutes; a file is read again when it changes.
        ca: A file with the authorities that are believed of that address; those of the system if empty.
        realm: A word that tells this issuer's subjects from those of another one: names are
            `token:REALM:SUBJECT` then. Needed where there are several issuers.
        leeway: Seconds that the issuer's clock may differ from this one's.
        plain_text: Take tokens over connections that are not encrypted too.

    Raises:
        ConfigError: An argument cannot be used.
    """
    if not isinstance(issuer, str) or not issuer:
        raise ConfigError(f"bearer_jwt: issuer {excerpt(issuer)} is no text that a token could say as iss")
    if not isinstance(jwks, str) or not jwks:
        raise ConfigError(f"bearer_jwt: jwks {excerpt(jwks)} is neither an https address nor a file")
    remote = "://" in jwks
    if remote:
        _check_address(jwks)
    if ca and not remote:
        raise ConfigError("bearer_jwt: ca= is about an https address, and jwks names a file")
    return AcceptedTokens(
        issuer, _audiences(audience), jwks, ca, _realm(realm), _seconds(leeway), bool(plain_text)
    )


def kubernetes_jwt(
    audience: str | Iterable[str], *, realm: str = "", leeway: float = _LEEWAY, plain_text: bool = False
) -> AcceptedTokens:
    """Take the tokens of Kubernetes' service accounts, in the cluster that this pod runs in.

    The issuer is that of the pod's own token, and its keys come from the cluster's API server. A caller's
    name in rules is such as `token:system:serviceaccount:shop:cart`. Each argument is as for `bearer_jwt`.

    Raises:
        ConfigError: An argument cannot be used.
    """
    return AcceptedTokens("", _audiences(audience), "", "", _realm(realm), _seconds(leeway), bool(plain_text))


def api_keys(file: str | PathLike[str], *, plain_text: bool = False) -> AcceptedKeys:
    """Take API keys: a service's callers send them as `x-api-key`.

    It goes into a service's `interceptors`, as `bearer_jwt` does. A caller's name in rules is `key:` and the
    name that the file has for its key.

    Args:
        file: A TOML file with a name and the SHA-256 digest of its key in each line, `cart = "4f9a…"`; a
            list of digests where a key is being exchanged. It is read again when it changes.
        plain_text: Take keys over connections that are not encrypted too.

    Raises:
        ConfigError: `file` is no path.
    """
    path = fspath(file) if isinstance(file, str | PathLike) else None
    if not isinstance(path, str) or not path:
        raise ConfigError(f"api_keys: {excerpt(file)} is no path of a file")
    return AcceptedKeys(path, bool(plain_text))


def _check_address(jwks: str) -> None:
    try:
        parts = urlsplit(jwks)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ConfigError(f"bearer_jwt: jwks {excerpt(jwks)} is no address") from None
    if parts.scheme.lower() != "https":
        raise ConfigError(
            f"bearer_jwt: jwks {excerpt(jwks)}: keys are fetched over https only, since whoever can change "
            "them on the way could issue tokens; or name a file"
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigError("bearer_jwt: jwks names a user or a password: public keys need neither")
    if not named or not jwks.isascii() or not jwks.isprintable() or " " in jwks:
        raise ConfigError(f"bearer_jwt: jwks {excerpt(jwks)} is no address")


def _audiences(audience: str | Iterable[str]) -> tuple[str, ...]:
    given = audience if isinstance(audience, Iterable) else ()
    found = (given,) if isinstance(given, str) else tuple(given)
    if not found or not all(isinstance(one, str) and one for one in found):
        raise ConfigError(
            f"audience {excerpt(audience)}: name what tokens for this service say as aud, such as its name; "
            "a token without an audience is good for any service"
        )
    return found


def _realm(realm: str) -> str:
    if not isinstance(realm, str) or ":" in realm or "*" in realm or "/" in realm:
        raise ConfigError(f"realm {excerpt(realm)} is no word without colons, slashes and stars")
    return realm


def _seconds(leeway: float) -> float:
    if not isinstance(leeway, int | float) or not 0 <= leeway <= 600:
        raise ConfigError(f"leeway {excerpt(leeway)} is no number of seconds from 0 to 600")
    return float(leeway)
