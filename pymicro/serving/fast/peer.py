"""Who is at the other end of an encrypted connection, in the words of grpc-core."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, NamedTuple

__all__ = ["NOBODY", "PeerFacts", "facts_of"]

_NAMES, _COMMON = "x509_subject_alternative_name", "x509_common_name"
# By Python's word for a kind of name, grpc-core's key.
_KINDS = {"DNS": "peer_dns", "URI": "peer_uri", "IP Address": "peer_ip", "email": "peer_email"}
_SPIFFE = "spiffe://"


class PeerFacts(NamedTuple):
    """What grpc's servicer context tells of a peer.

    Attributes:
        context: `auth_context()`.
        key: `peer_identity_key()`.
        identities: `peer_identities()`.
    """

    context: Mapping[str, list[bytes]]
    key: str | None
    identities: list[bytes] | None


NOBODY = PeerFacts({}, None, None)


def facts_of(encryption: Any) -> PeerFacts:
    """The facts of a connection.

    Args:
        encryption: Its `ssl.SSLObject`, or what the loop has like it; None for plain text.
    """
    if encryption is None:
        return NOBODY
    context: dict[str, list[bytes]] = {
        "transport_security_type": [b"ssl"],
        "security_level": [b"TSI_PRIVACY_AND_INTEGRITY"],
        "ssl_session_reused": [b"true" if encryption.session_reused else b"false"],
        "ssl_tls_version": [(encryption.version() or "").encode()],
    }
    # Empty without a certificate, and for one that was not checked.
    certificate: Mapping[str, Any] = encryption.getpeercert() or {}
    if not certificate:
        return PeerFacts(context, None, None)
    common = [
        value.encode()
        for parts in certificate.get("subject", ())
        for name, value in parts
        if name == "commonName"
    ]
    context[_COMMON] = common[:1] or [b""]
    names = [(kind, _written(kind, value)) for kind, value in certificate.get("subjectAltName", ())]
    for kind, value in names:
        if kind in _KINDS:
            context.setdefault(_KINDS[kind], []).append(value.encode())
    if names:
        context[_NAMES] = [value.encode() for kind, value in names if kind in _KINDS]
    uris = [value for kind, value in names if kind == "URI"]
    if len(uris) == 1 and uris[0].startswith(_SPIFFE):  # as SPIFFE's X.509 profile has it
        context["peer_spiffe_id"] = [uris[0].encode()]
    key = _NAMES if names else _COMMON
    return PeerFacts(context, key, context[key])


def _written(kind: str, value: str) -> str:
    """A name as grpc-core writes it: OpenSSL writes IPv6 addresses in full."""
    if kind == "IP Address":
        with suppress(ValueError):
            return str(ip_address(value))
    return value
