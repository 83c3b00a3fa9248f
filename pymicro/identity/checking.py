"""Whether what is in certificate files may be used. Needs the extra `tls`.

A handshake that fails says little, and says it to the other end. So everything that can be known
before is looked at here, and each fault has a sentence of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pymicro.base.errors import PluginError
from pymicro.base.printable import printable, shortened
from pymicro.identity.contexts import why_of_no_use
from pymicro.identity.files import BadCertificate, Contents
from pymicro.identity.identity import Identity

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = ["check_shown", "identity_of", "moment", "need_cryptography", "why_not_now"]

_CERTIFICATES = ("CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE")
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
# DER begins with a SEQUENCE whose length takes one or two bytes more.
_DER = (b"\x30\x81", b"\x30\x82")
# What grpc's TLS takes of elliptic curves; it has no Ed25519 and no P-521 (tried with grpcio 1.85).
_CURVES = ("secp256r1", "secp384r1")
_LEAST_RSA = 2048
# A chain is a few certificates. Each link is a signature to check.
_LONGEST_CHAIN = 10


def need_cryptography() -> None:
    """Load what checks certificates.

    Raises:
        PluginError: It is not installed.
    """
    try:
        import cryptography.x509  # noqa: F401
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != "cryptography":
            raise
        raise PluginError("certificates need cryptography: pip install 'pymicro-grpc[tls]'") from exc


def identity_of(contents: Contents, now: datetime) -> Identity:
    """The identity in these files, if it may be used at this moment.

    Args:
        contents: What is in the files.
        now: With a time zone.

    Raises:
        BadCertificate: It may not; the text says why, and which file to mend.
        PluginError: The extra `tls` is not installed.
    """
    need_cryptography()
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    files = contents.files
    authorities = _certificates(contents.ca, files.ca)
    ca = b"".join(one.public_bytes(Encoding.PEM) for one in authorities)
    if contents.cert is None or contents.key is None:
        made = Identity(ca, digest=contents.digest)
        if why := why_of_no_use(made):
            raise BadCertificate(f"{files.ca} has certificates of no use: {why}")
        return made
    chain, key = _shown(contents.cert, contents.key, contents, now)
    _check_authority(chain, authorities, contents, now)
    names, addresses, uris = _names(chain[0])
    made = Identity(
        ca=ca,
        chain=b"".join(one.public_bytes(Encoding.PEM) for one in chain),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        subject=_name(chain[0]),
        names=names,
        addresses=addresses,
        uris=uris,
        not_after=min(one.not_valid_after_utc for one in chain).timestamp(),
        digest=contents.digest,
    )
    if why := why_of_no_use(made):
        raise BadCertificate(
            f"the certificate in {files.cert} ({_name(chain[0])}) is taken by nobody who believes "
            f"{files.ca}: {why}"
        )
    return made


def check_shown(contents: Contents, now: datetime) -> None:
    """Check a certificate and its key, whoever may have to believe it.

    Args:
        contents: With both.
        now: With a time zone.

    Raises:
        BadCertificate: It may not be shown; the text says why, and which file to mend.
        PluginError: The extra `tls` is not installed.
    """
    need_cryptography()
    _shown(contents.cert or b"", contents.key or b"", contents, now)


def why_not_now(pem: bytes, now: datetime) -> str:
    """Why a client certificate is not valid at this moment; empty if it is, or cannot be read."""
    try:
        found = _certificates(pem, "the client certificate")[0]
    except BadCertificate:
        return ""
    try:
        _check_time(found, now, "the client certificate")
    except BadCertificate as exc:
        return str(exc)
    return ""


def _shown(cert: bytes, key: bytes, contents: Contents, now: datetime) -> tuple[list[Certificate], Any]:
    """The certificate with those that lead on, and its key."""
    files = contents.files
    chain, own = _certificates(cert, files.cert, own=True), _key(key, files.key)
    _check_key(own, chain, contents)
    _check_chain(chain, contents)
    _check_use(chain[0], files.cert)
    for place, one in enumerate(chain):
        what = "the certificate" if place == 0 else "a certificate of the chain"
        _check_time(one, now, f"{what} in {files.cert}")
    return chain, own


def _blocks(data: bytes, path: str) -> list[tuple[str, bytes]]:
    """The PEM blocks of a file, each with its label.

    Raises:
        BadCertificate: There is none, or one is cut off.
    """
    found: list[tuple[str, bytes]] = []
    at = 0
    while (begin := _BEGIN.search(data, at)) is not None:
        label = begin[1].decode()
        mark = b"-----END %s-----" % begin[1]
        at = data.find(mark, begin.end())
        following = _BEGIN.search(data, begin.end())
        if at < 0 or (following is not None and following.start() < at):
            raise BadCertificate(f"{path} is cut off: its {label} has a beginning and no end")
        at += len(mark)
        found.append((label, data[begin.start() : at] + b"\n"))
    if found:
        return found
    if data.startswith(_DER):
        raise BadCertificate(
            f"{path} is in the form DER, and PEM is wanted: `openssl … -inform der` converts"
        )
    raise BadCertificate(f"{path} holds nothing in the form PEM")


def _certificates(data: bytes, path: str, *, own: bool = False) -> list[Certificate]:
    from cryptography.x509 import load_pem_x509_certificate

    blocks = _blocks(data, path)
    found = []
    for label, block in blocks:
        if label in _CERTIFICATES:
            try:
                one = load_pem_x509_certificate(block)
                # These are not read before somebody asks. The key of an authority may be of an unknown kind.
                one.subject.rfc4514_string()
                one.issuer.rfc4514_string()
                if own:
                    one.public_key()
            except Exception as exc:  # not only ValueError: versions and kinds of keys that are not known
                raise BadCertificate(f"{path} has a certificate that cannot be read: {_why(exc)}") from exc
            found.append(one)
    if not found:
        raise BadCertificate(f"{path} has no certificate, only {blocks[0][0]}")
    return found


def _key(data: bytes, path: str) -> Any:
    """The one key of a file that both transports can use."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    keys = [block for label, block in _blocks(data, path) if label.endswith("PRIVATE KEY")]
    if not keys:
        raise BadCertificate(f"{path} has no key (it wants a block PRIVATE KEY)")
    if len(keys) > 1:
        raise BadCertificate(f"{path} has {len(keys)} keys, and one is wanted")
    if b"ENCRYPTED" in keys[0]:
        raise BadCertificate(f"the key in {path} needs a passphrase: it has to be stored without one")
    try:
        key = load_pem_private_key(keys[0], password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise BadCertificate(f"{path} has a key that cannot be read: {_why(exc)}") from exc
    if isinstance(key, RSAPrivateKey):
        if key.key_size < _LEAST_RSA:
            raise BadCertificate(
                f"the key in {path} has {key.key_size} bits: RSA wants {_LEAST_RSA} at least"
            )
    elif not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise BadCertificate(
            f"the key in {path} is of a kind that gRPC's TLS does not take: use RSA, or ECDSA P-256 or P-384"
        )
    return key


def _check_key(key: Any, chain: Sequence[Certificate], contents: Contents) -> None:
    """Raises BadCertificate if the key is not the first certificate's."""
    ours = _spki(key.public_key())
    fits = [_spki(one.public_key()) == ours for one in chain]
    if fits[0]:
        return
    files = contents.files
    if any(fits):
        raise BadCertificate(
            f"the chain in {files.cert} is in the wrong order: the certificate of the key in {files.key} "
            f"comes first, and not {_name(chain[0])}"
        )
    raise BadCertificate(
        f"the key in {files.key} does not belong to the certificate in {files.cert} ({_name(chain[0])})"
    )


def _check_chain(chain: Sequence[Certificate], contents: Contents) -> None:
    """Raises BadCertificate if a certificate was not signed by the next one."""
    path = contents.files.cert
    if len(chain) > _LONGEST_CHAIN:
        raise BadCertificate(f"the chain in {path} has {len(chain)} certificates: it is no chain")
    for place, (one, after) in enumerate(pairwise(chain)):
        if _signed(one, after):
            continue
        if any(_signed(one, other) for other in chain[place + 2 :]):
            raise BadCertificate(
                f"the chain in {path} is in the wrong order: after {_name(one)} comes {_name(after)}, "
                "and not the one that has signed it"
            )
        raise BadCertificate(
            f"the chain in {path} is broken: {_name(after)} follows {_name(one)}, and has not signed it"
        )


def _check_authority(
    chain: Sequence[Certificate], authorities: Sequence[Certificate], contents: Contents, now: datetime
) -> None:
    """Raises BadCertificate if no authority stands behind the chain."""
    files, leaf = contents.files, chain[0]
    # An authority that was renewed with the same key may stand there twice, and one of the two has expired.
    behind = [one for one in authorities if any(link == one or _signed(link, one) for link in chain)]
    if behind:
        now_valid = [one for one in behind if one.not_valid_before_utc <= now <= one.not_valid_after_utc]
        _check_time((now_valid or behind)[0], now, f"the authority in {files.ca}")
        return
    if leaf.issuer == leaf.subject and len(chain) == 1:
        raise BadCertificate(
            f"the certificate in {files.cert} ({_name(leaf)}) has signed itself, "
            f"and is no authority of {files.ca}"
        )
    raise BadCertificate(
        f"the certificate in {files.cert} ({_name(leaf)}) comes from {_text(chain[-1].issuer)}, "
        f"which is no authority of {files.ca}"
    )


def _check_use(leaf: Certificate, path: str) -> None:
    """Raises BadCertificate if a certificate is not for TLS at all."""
    from cryptography.x509 import ExtendedKeyUsage, KeyUsage
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        found = {type(one.value): one.value for one in leaf.extensions}
    except Exception:  # one of a kind that is not known is malformed: TLS may not mind
        return
    usage, purposes = found.get(KeyUsage), found.get(ExtendedKeyUsage)
    if isinstance(usage, KeyUsage) and not usage.digital_signature:
        raise BadCertificate(
            f"the certificate in {path} ({_name(leaf)}) is not for signatures (key usage), and TLS signs "
            "with it: have it issued with digitalSignature"
        )
    if isinstance(purposes, ExtendedKeyUsage) and not {*purposes} & {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    }:
        raise BadCertificate(
            f"the certificate in {path} ({_name(leaf)}) is for neither servers nor clients (extended key "
            "usage): have it issued with serverAuth and clientAuth"
        )


def _check_time(one: Certificate, now: datetime, what: str) -> None:
    """Raises BadCertificate if a certificate is not valid at this moment."""
    if now > one.not_valid_after_utc:
        raise BadCertificate(
            f"{what} ({_name(one)}) has expired: it was valid until {moment(one.not_valid_after_utc)}"
        )
    if now < one.not_valid_before_utc:
        raise BadCertificate(
            f"{what} ({_name(one)}) is not valid before {moment(one.not_valid_before_utc)} "
            "(is the clock here right?)"
        )


def _signed(one: Certificate, by: Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        one.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _spki(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    found: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return found


def _names(one: Certificate) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """DNS names, IP addresses and URIs of a certificate."""
    from cryptography.x509 import (
        DNSName,
        IPAddress,
        SubjectAlternativeName,
        UniformResourceIdentifier,
    )

    try:
        found = one.extensions.get_extension_for_class(SubjectAlternativeName).value
    except Exception:  # there is none; or one of another kind is malformed
        return (), (), ()
    return (
        tuple(found.get_values_for_type(DNSName)),
        tuple(str(address) for address in found.get_values_for_type(IPAddress)),
        tuple(found.get_values_for_type(UniformResourceIdentifier)),
    )


def _name(one: Certificate) -> str:
    """What people know a certificate by."""
    for found in _names(one):
        if found:
            return shortened(printable(found[0]))
    return _text(one.subject)


def _text(name: Any) -> str:
    return shortened(printable(name.rfc4514_string())) or "somebody without a name"


def moment(when: datetime | float) -> str:
    """A moment for people; a number is seconds since 1970."""
    when = when if isinstance(when, datetime) else datetime.fromtimestamp(when, UTC)
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _why(error: Exception) -> str:
    """The first line of what a library says; some add a page of advice."""
    return shortened(printable(str(error).partition("\n")[0].partition(". ")[0]))
