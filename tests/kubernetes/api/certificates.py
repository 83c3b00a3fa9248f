"""Certificates for tests, made anew in each run: two authorities, a server of each, a client of the first.

The servers are 127.0.0.1 and kubernetes.default.svc; the client is `ada`.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

__all__ = ["ADA", "ADA_KEY", "NEW_CA", "OLD_CA", "new_server", "old_server", "plain_certificates"]

_OLD, _NEW = trustme.CA(), trustme.CA()


def _pem(*blobs: trustme.Blob) -> str:
    return "".join(blob.bytes().decode() for blob in blobs)


OLD_CA, NEW_CA = _pem(_OLD.cert_pem), _pem(_NEW.cert_pem)

_ada = _OLD.issue_cert(common_name="ada")
ADA, ADA_KEY = _pem(*_ada.cert_chain_pems), _pem(_ada.private_key_pem)


def _server(authority: trustme.CA, folder: Path) -> ssl.SSLContext:
    chain = folder / "server.pem"
    authority.issue_cert("127.0.0.1", "kubernetes.default.svc").private_key_and_cert_chain_pem.write_to_path(
        str(chain)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context


def old_server(folder: Path, *, clients: bool = False) -> ssl.SSLContext:
    """A server of the old authority; with `clients` only for those who have its certificate."""
    context = _server(_OLD, folder)
    if clients:
        context.load_verify_locations(cadata=OLD_CA)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def new_server(folder: Path) -> ssl.SSLContext:
    """A server of the new authority."""
    return _server(_NEW, folder)


def plain_certificates() -> tuple[str, str, str]:
    """An authority, and certificates of it with their keys; none of them has a key identifier.

    The first one is for 127.0.0.1, the second for a server that has only the common name `server`.
    """
    signing = ec.generate_private_key(ec.SECP256R1())
    root = _name("ca")

    def issue(subject: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> str:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            root, subject, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        return builder.sign(signing, SHA256()).public_bytes(Encoding.PEM).decode()

    def with_key(*extensions: x509.ExtensionType) -> str:
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return issue(_name("server"), key, *extensions) + private.decode()

    authority = issue(root, signing, x509.BasicConstraints(ca=True, path_length=None))
    place = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    return authority, with_key(place), with_key()


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])
