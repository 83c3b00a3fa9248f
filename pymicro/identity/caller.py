"""Who calls, as a certificate, a token or an API key proves it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pymicro.base.printable import printable, shortened

__all__ = ["PRINCIPALS", "KnownCaller", "caller_of", "is_secured"]

# How the names of tokens' subjects and of API keys begin, here and in rules.
PRINCIPALS = ("token:", "key:")

_SPIFFE = "spiffe://"
# Bytes of one name, of which a certificate may hold anything. The beginning of a longer one is another
# name, which rules may take for somebody else's, so it is none.
_LONGEST = 2048


@dataclass(frozen=True, slots=True)
class KnownCaller:
    """A caller that has proved who it is, by its connection's certificate or by what its calls carry.

    Attributes:
        spiffe_id: Which workload it is, `spiffe://cluster.local/ns/shop/sa/cart`; empty if its
            certificate does not say.
        names: The DNS names in its certificate; none of them has a colon or a slash, so that no rule
            takes one for a URI.
        uris: The URIs in its certificate, the SPIFFE id among them.
        subject: The common name of its certificate's subject; empty if it has none.
        principal: Whom its token or its API key is for: `token:` and the token's subject, such as
            `token:system:serviceaccount:shop:cart`, or `key:` and the key's name; empty for a caller
            that is known by its certificate alone.
        claims: All that its token says; empty without one. Lists in it are tuples, and nothing in it
            can be changed.
    """

    spiffe_id: str = ""
    names: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    subject: str = ""
    principal: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)

    @property
    def ids(self) -> tuple[str, ...]:
        """What its certificate proves: its URIs and its DNS names. A subject proves nothing."""
        return (*self.uris, *self.names)

    @property
    def title(self) -> str:
        """What logs call it: its principal, else its SPIFFE id, a name, a URI or the subject."""
        found = self.principal or self.spiffe_id or next(iter((*self.names, *self.uris)), "") or self.subject
        # A line of a log has one caller.
        text = printable(found).replace("\n", "\\n").replace("\t", "\\t")
        return shortened(text) or "a caller without a name"


def caller_of(auth_context: Mapping[str, Iterable[bytes]]) -> KnownCaller | None:
    """The caller in what grpc tells of a connection; None if it has proved nothing.

    Args:
        auth_context: As `grpc.ServicerContext.auth_context()` gives it.
    """
    if not auth_context or not (
        "x509_subject_alternative_name" in auth_context or "x509_common_name" in auth_context
    ):
        return None
    subject = next(iter(_texts(auth_context.get("x509_common_name", ()))), "")
    if any(map(_has_cut_names, auth_context.get("x509_pem_cert", ()))):
        return KnownCaller(subject=subject)
    uris = _texts(auth_context.get("peer_uri", ()))
    dns = _texts(auth_context.get("peer_dns", ()))
    names = tuple(name.lower() for name in dns if ":" not in name and "/" not in name)
    # A certificate with several URIs is no SPIFFE certificate (X509-SVID, section 2).
    spiffe_id = uris[0] if len(uris) == 1 and uris[0].startswith(_SPIFFE) else ""
    return KnownCaller(spiffe_id, names, uris, subject)


@lru_cache(maxsize=1024)
def _has_cut_names(pem: bytes) -> bool:
    """Whether names of a certificate have a null character, where grpc-core cuts them: `cart` is all that
    it tells of `cart\\0.evil.example`.
    """
    from cryptography.x509 import (
        DNSName,
        ExtensionNotFound,
        SubjectAlternativeName,
        UniformResourceIdentifier,
        load_pem_x509_certificate,
    )

    try:
        found = load_pem_x509_certificate(pem).extensions.get_extension_for_class(SubjectAlternativeName)
    except ExtensionNotFound:
        return False
    except Exception:  # nobody can say
        return True
    kinds: tuple[type[DNSName] | type[UniformResourceIdentifier], ...] = (DNSName, UniformResourceIdentifier)
    return any("\0" in name for kind in kinds for name in found.value.get_values_for_type(kind))


def is_secured(auth_context: Mapping[str, Iterable[bytes]]) -> bool:
    """Whether the connection that grpc tells of is encrypted; a plain one may say `insecure`."""
    return b"ssl" in auth_context.get("transport_security_type", ())


def _texts(values: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(value.decode("utf-8", "backslashreplace") for value in values if len(value) <= _LONGEST)
