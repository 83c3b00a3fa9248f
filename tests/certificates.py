"""Certificates for tests: authorities by trustme, and folders as Kubernetes and cert-manager write them."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

__all__ = ["Folder", "Made", "chain_of", "issue", "key_of", "pem_of", "spiffe"]

DAY = timedelta(days=1)


def issue(ca: trustme.CA, *names: str, days: float = 30, since: float = 1, **given: Any) -> trustme.LeafCert:
    """A certificate that is valid from `since` days ago, for another `days`."""
    now = datetime.now(UTC)
    return ca.issue_cert(
        *(names or ("greeter",)), not_before=now - since * DAY, not_after=now + days * DAY, **given
    )


def chain_of(leaf: trustme.LeafCert) -> bytes:
    """The certificate and those that lead to its authority, as in `tls.crt`."""
    return b"".join(blob.bytes() for blob in leaf.cert_chain_pems)


def key_of(leaf: trustme.LeafCert) -> bytes:
    """The key, as in `tls.key`."""
    return leaf.private_key_pem.bytes()


def pem_of(ca: trustme.CA) -> bytes:
    """The authority, as in `ca.crt`."""
    return ca.cert_pem.bytes()


def spiffe(ca: trustme.CA, *uris: str, names: tuple[str, ...] = ()) -> tuple[bytes, bytes]:
    """A certificate and its key as SPIFFE's programs issue them: it has URIs, and perhaps names."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    authority = x509.load_pem_x509_certificate(pem_of(ca))
    signer: Any = load_pem_private_key(ca.private_key_pem.bytes(), None)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(
            x509.SubjectAlternativeName(
                [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, names)]
            ),
            critical=True,
        )
        .sign(signer, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.public_bytes(Encoding.PEM), pem


class Made:
    """A certificate with its key, as nobody should issue it.

    Args:
        by: Whose key signs it; itself if None.
        name: Its common name, and its DNS name.
        key: Its own; a new one of ECDSA if None.
        authority: Whether its basic constraints say so.
        path_length: How many authorities may be below.
        names: Whether it has a DNS name; authorities have none.
        days: For how long it is valid.
        extensions: More of them, each critical.
    """

    def __init__(
        self,
        by: Made | None = None,
        name: str = "greeter",
        *,
        key: Any = None,
        authority: bool = False,
        path_length: int | None = None,
        names: bool = True,
        days: float = 1,
        extensions: tuple[x509.ExtensionType, ...] = (),
    ) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now, signer = datetime.now(UTC), by or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(signer.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 10 * DAY)
            .not_valid_after(now + days * DAY)
            .add_extension(x509.BasicConstraints(authority, path_length), critical=True)
        )
        if names and not authority:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        for one in extensions:
            builder = builder.add_extension(one, critical=True)
        self.certificate = builder.sign(signer.key, hashes.SHA256())
        self.pem = self.certificate.public_bytes(Encoding.PEM)
        self.key_pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Folder:
    """A folder with `tls.crt`, `tls.key` and `ca.crt`, whose contents are swapped at once.

    It is a volume as the kubelet writes it: the files are links into `..data`, a link to a folder with
    the contents of one moment.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._count = 0
        path.mkdir(parents=True, exist_ok=True)

    def put(self, cert: bytes, key: bytes, ca: bytes) -> None:
        """Swap all three at once, and remove those before."""
        files = {"tls.crt": cert, "tls.key": key, "ca.crt": ca}
        self._count += 1
        data, before = self.path / f"..{self._count}", self.path / f"..{self._count - 1}"
        data.mkdir()
        for name, contents in files.items():
            (data / name).write_bytes(contents)
            link = self.path / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        link = self.path / "..data_tmp"
        link.symlink_to(data.name)
        os.replace(link, self.path / "..data")
        shutil.rmtree(before, ignore_errors=True)

    def issue(self, ca: trustme.CA, *names: str, believe: bytes = b"", **given: Any) -> None:
        """Put a new certificate of `ca` there, which also is the authority unless `believe` says others."""
        leaf = issue(ca, *names, **given)
        self.put(chain_of(leaf), key_of(leaf), believe or pem_of(ca))

    @property
    def settings(self) -> dict[str, str]:
        """The setting that names it."""
        return {"tls_dir": str(self.path)}
