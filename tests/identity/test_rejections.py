"""Which certificate files are refused, and that each fault has one clear sentence."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_pem_x509_certificate
from cryptography.x509.oid import ExtendedKeyUsageOID

from pymicro.base.errors import ConfigError
from pymicro.identity import files as files_module
from pymicro.identity.checking import identity_of
from pymicro.identity.files import BadCertificate, CertificateFiles
from pymicro.identity.identity import Identity
from tests.certificates import Made, chain_of, issue, key_of, pem_of, spiffe

ROOT = trustme.CA(organization_name="Ours")
MIDDLE = ROOT.create_child_ca()
LOWER = MIDDLE.create_child_ca()


class Files:
    """A good set of files, of which each case spoils something."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key, self.ca = folder / "tls.crt", folder / "tls.key", folder / "ca.crt"
        self.leaf = issue(MIDDLE)
        self.put(self.leaf)
        self.ca.write_bytes(pem_of(ROOT))

    def put(self, leaf: trustme.LeafCert) -> None:
        self.cert.write_bytes(chain_of(leaf))
        self.key.write_bytes(key_of(leaf))

    def identity(self) -> Identity:
        files = CertificateFiles.of(cert=str(self.cert), key=str(self.key), ca=str(self.ca))
        assert files is not None
        return identity_of(files.read(), datetime.now(UTC))


def wrong_ca(files: Files) -> None:
    files.ca.write_bytes(pem_of(trustme.CA()))


def same_name_other_key(files: Files) -> None:
    files.ca.write_bytes(pem_of(trustme.CA(organization_name="Ours")))


def self_signed(files: Files) -> None:
    stranger = trustme.CA(organization_name="Itself")
    files.cert.write_bytes(pem_of(stranger))
    files.key.write_bytes(stranger.private_key_pem.bytes())


def key_of_another(files: Files) -> None:
    files.key.write_bytes(key_of(issue(ROOT)))


def no_key(files: Files) -> None:
    files.key.write_bytes(files.cert.read_bytes())


def no_certificate(files: Files) -> None:
    files.cert.write_bytes(files.key.read_bytes())


def two_keys(files: Files) -> None:
    files.key.write_bytes(files.key.read_bytes() * 2)


def encrypted_key(files: Files) -> None:
    key = load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )


def encrypted_in_the_old_form(files: Files) -> None:
    key = load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"secret"))
    )


def key_of_a_kind_grpc_has_not(files: Files) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def curve_that_grpc_has_not(files: Files) -> None:
    key = ec.generate_private_key(ec.SECP521R1())
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def der(path: Path) -> None:
    path.write_bytes(load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER))


def half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def spoilt(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))


def unreadable(path: Path) -> None:
    # Nobody may read it, root can all the same: for root a link to itself is unreadable.
    if os.geteuid():
        path.chmod(0)
    else:
        path.unlink()
        path.symlink_to(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def huge(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(1 << 30)


def wrong_order(files: Files) -> None:
    files.cert.write_bytes(b"".join(blob.bytes() for blob in reversed(files.leaf.cert_chain_pems)))


def wrong_order_behind_the_first(files: Files) -> None:
    leaf = issue(LOWER)
    first, second, third = (blob.bytes() for blob in leaf.cert_chain_pems)
    files.put(leaf)
    files.cert.write_bytes(first + third + second)


def chain_with_a_stranger(files: Files) -> None:
    files.cert.write_bytes(files.leaf.cert_chain_pems[0].bytes() + pem_of(trustme.CA()))


def chain_without_its_middle(files: Files) -> None:
    files.cert.write_bytes(files.leaf.cert_chain_pems[0].bytes())


def endless_chain(files: Files) -> None:
    files.cert.write_bytes(chain_of(files.leaf) + pem_of(ROOT) * 20)


TOP = Made(name="Top", authority=True)
BELOW = Made(TOP, "Below", authority=True)
LAST = Made(TOP, "Last", authority=True, path_length=0)
ELSEWHERE = Made(
    TOP, "Elsewhere", authority=True, extensions=(x509.NameConstraints([x509.DNSName("other.test")], None),)
)
SIGNS_NOTHING = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def put(files: Files, leaf: Made, *chain: Made, ca: Made = TOP) -> None:
    files.cert.write_bytes(b"".join(one.pem for one in (leaf, *chain)))
    files.key.write_bytes(leaf.key_pem)
    files.ca.write_bytes(ca.pem)


def named(more: str) -> Made:
    """A certificate with one more name, which nobody can read."""
    raw = bytes.fromhex("8207") + b"greeter" + bytes.fromhex(more)
    odd = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, bytes([0x30, len(raw)]) + raw)
    return Made(TOP, names=False, extensions=(odd,))


def weak_authority(files: Files) -> None:
    weak = Made(name="Weak", authority=True, key=rsa.generate_private_key(65537, 1024))
    put(files, Made(weak), ca=weak)


def signed_by_no_authority(files: Files) -> None:
    server = Made(TOP, "cart")
    put(files, Made(server), server)


def too_far_down(files: Files) -> None:
    lowest = Made(LAST, "Lowest", authority=True)
    put(files, Made(lowest), lowest, LAST)


def key_of_a_kind_that_is_not_known(files: Files) -> None:
    """A certificate with a key that names another algorithm."""
    leaf = Made(TOP)
    put(files, leaf)
    raw = leaf.certificate.public_bytes(Encoding.DER)
    broken = raw.replace(bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d0203"), 1)
    files.cert.write_bytes(ssl.DER_cert_to_PEM_cert(broken).encode())


# What may be wrong with each of the three files.
IN_A_FILE: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.write_bytes(b""), r"(tls|ca)\.\w+ is empty"),
    (lambda path: path.write_bytes(b"\n \n"), r"(tls|ca)\.\w+ is empty"),
    (lambda path: path.write_bytes(b"hello"), r"holds nothing in the form PEM"),
    (Path.unlink, r"cannot be read: No such file"),
    (half, r"\w+ is cut off: its .* has a beginning"),
    (unreadable, r"cannot be read: (Permission denied|Too many levels)"),
    (directory, r"is a directory, where a file with"),
    (pipe, r"is no file, where a file with PEM"),
    (huge, r"is larger than 1 MiB: it is no file"),
    (spoilt, r"has a (certificate|key) that cannot be read"),
]


def in_file(name: str, spoil: Callable[[Path], object], files: Files) -> None:
    spoil(getattr(files, name))


WHEN = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC"
# Each is one line, and names the file to mend.
REJECTIONS: list[tuple[Callable[[Files], object], str]] = [
    (wrong_ca, r"tls.crt \(greeter\) comes from .*Ours.*, which is no authority of .*ca.crt"),
    (same_name_other_key, r"tls.crt \(greeter\) comes from .*Ours.*, which is no authority of .*ca.crt"),
    (self_signed, r"tls.crt \(.*Itself.*\) has signed itself, and is no authority of .*ca.crt"),
    (
        lambda files: files.put(issue(MIDDLE, days=-0.5)),
        rf"the certificate in .*tls.crt \(greeter\) has expired: it was valid until {WHEN}",
    ),
    (
        lambda files: files.put(issue(MIDDLE, since=-1)),
        rf"tls.crt \(greeter\) is not valid before {WHEN} \(is the clock here right\?\)",
    ),
    (
        lambda files: put(files, Made(TOP, extensions=(SIGNS_NOTHING,))),
        r"tls.crt \(greeter\) is not for signatures \(key usage\).*: have it issued with digitalSignature",
    ),
    (
        lambda files: put(
            files, Made(TOP, extensions=(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),))
        ),
        r"tls.crt \(greeter\) is for neither servers nor clients .*serverAuth and clientAuth",
    ),
    (
        lambda files: put(files, Made(TOP, extensions=(UNKNOWN,))),
        r"tls.crt \(greeter\) is taken by nobody who believes .*ca.crt: unhandled critical extension",
    ),
    (weak_authority, r"tls.crt \(greeter\) is taken by nobody who believes .*ca.crt: .*key too small"),
    (signed_by_no_authority, r"taken by nobody who believes .*ca.crt: invalid CA certificate"),
    (too_far_down, r"taken by nobody who believes .*ca.crt: path length constraint exceeded"),
    (
        lambda files: put(files, Made(ELSEWHERE), ELSEWHERE),
        r"taken by nobody who believes .*ca.crt: permitted subtree violation",
    ),
    (
        lambda files: put(files, named("8703010203")),
        r"taken by nobody who believes .*ca.crt: an IP address of another length than such have",
    ),
    (
        lambda files: put(files, named("8202fffe")),
        r"taken by nobody who believes .*ca.crt: names that are no text",
    ),
    (key_of_a_kind_that_is_not_known, r"tls.crt has a certificate that cannot be read: .*1.2.840"),
    (key_of_another, r"the key in .*tls.key does not belong to the certificate in .*tls.crt \(greeter\)"),
    (no_key, r"tls.key has no key \(it wants a block PRIVATE KEY\)"),
    (no_certificate, r"tls.crt has no certificate, only .*PRIVATE KEY"),
    (two_keys, r"tls.key has 2 keys, and one is wanted"),
    (encrypted_key, r"the key in .*tls.key needs a passphrase"),
    (encrypted_in_the_old_form, r"the key in .*tls.key needs a passphrase"),
    (key_of_a_kind_grpc_has_not, r"the key in .*tls.key is of a kind that gRPC's TLS does not take: use RSA"),
    (curve_that_grpc_has_not, r"the key in .*tls.key is of a kind that gRPC's TLS does not take: use RSA"),
    (wrong_order, r"tls.crt is in the wrong order: the certificate of the key in .*tls.key comes first"),
    (wrong_order_behind_the_first, r"tls.crt is in the wrong order: after greeter comes"),
    (chain_with_a_stranger, r"the chain in .*tls.crt is broken: .* follows greeter, and has not signed it"),
    (chain_without_its_middle, r"tls.crt \(greeter\) comes from .*, which is no authority of .*ca.crt"),
    (endless_chain, r"the chain in .*tls.crt has 22 certificates: it is no chain"),
    *[
        (partial(in_file, name, spoil), pattern)
        for name in ("cert", "key", "ca")
        for spoil, pattern in IN_A_FILE
    ],
    (lambda files: der(files.cert), r"tls.crt is in the form DER, and PEM is wanted"),
    (
        lambda files: files.key.write_bytes(
            load_pem_private_key(files.key.read_bytes(), None).private_bytes(
                Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
            )
        ),
        r"tls.key is in the form DER, and PEM is wanted",
    ),
    (lambda files: der(files.ca), r"ca.crt is in the form DER, and PEM is wanted"),
    (
        lambda files: files.ca.write_bytes(files.ca.read_bytes() + b"-----BEGIN CERTIFICATE-----\nMII"),
        r"ca.crt is cut off: its CERTIFICATE has a beginning and no end",
    ),
]


@pytest.mark.parametrize(("spoil", "sentence"), REJECTIONS, ids=[str(n) for n in range(len(REJECTIONS))])
def test_files_that_must_not_be_used_are_refused_in_one_sentence(
    tmp_path: Path, spoil: Callable[[Files], object], sentence: str
) -> None:
    files = Files(tmp_path)
    assert files.identity().names == ("greeter",)
    spoil(files)
    with pytest.raises(BadCertificate) as caught:
        files.identity()
    text = str(caught.value)
    assert re.search(sentence, text), text
    assert "\n" not in text
    assert len(text) < 600
    assert "BEGIN" not in text


def test_an_authority_that_has_expired_stands_behind_nothing(tmp_path: Path) -> None:
    files = Files(tmp_path)
    found = CertificateFiles(str(files.ca), str(files.cert), str(files.key)).read()
    authority = load_pem_x509_certificate(pem_of(ROOT))
    with pytest.raises(BadCertificate, match="has expired"):
        identity_of(found, authority.not_valid_after_utc.replace(year=2600))


def test_an_authority_that_was_renewed_with_its_key_may_stand_beside_the_expired_one(tmp_path: Path) -> None:
    files = Files(tmp_path)
    put(files, Made(BELOW), BELOW)
    before = Made(name="Top", key=TOP.key, authority=True, days=-1)
    below_before = Made(TOP, "Below", key=BELOW.key, authority=True, days=-1)
    for authorities in ((before, TOP), (TOP, before), (below_before, TOP)):
        files.ca.write_bytes(b"".join(one.pem for one in authorities))
        assert files.identity().names == ("greeter",)
    files.ca.write_bytes(before.pem)
    with pytest.raises(BadCertificate, match=r"the authority in .*ca.crt \(CN=Top\) has expired"):
        files.identity()


@pytest.mark.parametrize(
    "use", [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH], ids=["server", "client"]
)
def test_a_certificate_may_be_for_one_end_only(tmp_path: Path, use: x509.ObjectIdentifier) -> None:
    files = Files(tmp_path)
    put(files, Made(TOP, extensions=(x509.ExtendedKeyUsage([use]),)))
    assert files.identity().names == ("greeter",)


def test_files_may_have_another_form_of_lines_a_mark_and_words_between(tmp_path: Path) -> None:
    files = Files(tmp_path)
    for path in (files.cert, files.key, files.ca):
        words = "Inhaber: Grüßer\n".encode("latin-1")
        path.write_bytes(b"\xef\xbb\xbf" + words + path.read_bytes().replace(b"\n", b"\r\n") + words)
    assert files.identity().names == ("greeter",)


@pytest.mark.parametrize("kind", ["RSA", "ECDSA"])
def test_good_files_make_an_identity(tmp_path: Path, kind: str) -> None:
    files = Files(tmp_path)
    files.put(issue(LOWER, "greeter", "greeter.shop.svc", "127.0.0.1", key_type=trustme.KeyType[kind]))
    identity = files.identity()
    assert identity.names == ("greeter", "greeter.shop.svc")
    assert identity.addresses == ("127.0.0.1",)
    assert identity.title == "greeter"
    assert identity.chain is not None
    assert identity.chain.count(b"BEGIN CERTIFICATE") == 3
    assert identity.key is not None
    assert identity.key.startswith(b"-----BEGIN PRIVATE KEY")
    assert identity.not_after is not None
    assert 0 < identity.not_after - datetime.now(UTC).timestamp() < 31 * 86400
    assert "PRIVATE" not in repr(identity)


def test_a_certificate_may_have_no_name_but_a_uri(tmp_path: Path) -> None:
    files = Files(tmp_path)
    cert, key = spiffe(ROOT, "spiffe://cluster.local/ns/shop/sa/cart")
    files.cert.write_bytes(cert)
    files.key.write_bytes(key)
    identity = files.identity()
    assert (identity.names, identity.uris) == ((), ("spiffe://cluster.local/ns/shop/sa/cart",))
    assert identity.title == "spiffe://cluster.local/ns/shop/sa/cart"


def test_several_authorities_are_believed_while_one_takes_over_from_the_other(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.ca.write_bytes(b"# ours, and the next\n" + pem_of(trustme.CA()) + b"\n\n" + pem_of(ROOT))
    assert files.identity().ca.count(b"BEGIN CERTIFICATE") == 2


def test_a_bundle_has_key_and_chain_in_one_file(tmp_path: Path) -> None:
    bundle, ca = tmp_path / "credentials.pem", tmp_path / "ca.pem"
    leaf = issue(MIDDLE)
    bundle.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    ca.write_bytes(pem_of(ROOT))
    found = CertificateFiles.of(bundle=str(bundle), ca=str(ca))
    assert found is not None
    assert found.paths == (str(bundle), str(ca))
    identity = identity_of(found.read(), datetime.now(UTC))
    assert identity.chain == chain_of(leaf)


def test_whoever_shows_no_certificate_has_authorities_only(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(pem_of(ROOT))
    found = CertificateFiles.of(ca=str(ca))
    assert found is not None
    identity = identity_of(found.read(), datetime.now(UTC))
    assert (identity.chain, identity.key, identity.not_after) == (None, None, None)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"key": "k", "ca": "c"}, "tls_key is set and tls_cert is not"),
        ({"cert": "c", "ca": "c"}, "tls_cert is set and tls_key is not"),
        ({"cert": "c", "key": "k"}, "tls_cert is set and tls_ca is not"),
        ({"bundle": "b"}, "tls_bundle is set and tls_ca is not"),
        ({"directory": "d", "bundle": "b"}, "tls_dir and tls_bundle are both set"),
        ({"directory": "d", "cert": "c", "key": "k"}, "tls_dir and tls_cert are both set"),
        ({"directory": "d", "key": "k"}, "tls_key is set and tls_cert is not"),
    ],
)
def test_settings_that_do_not_go_together_are_an_error(given: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        CertificateFiles.of(**given)


def test_a_folder_has_the_names_that_kubernetes_gives_and_its_authorities_may_be_elsewhere() -> None:
    assert CertificateFiles.of(directory="/tls") == CertificateFiles(
        "/tls/ca.crt", "/tls/tls.crt", "/tls/tls.key"
    )
    assert CertificateFiles.of(directory="/tls", ca="/other") == CertificateFiles(
        "/other", "/tls/tls.crt", "/tls/tls.key"
    )
    assert CertificateFiles.of() is None


def test_a_set_that_is_swapped_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(tmp_path)
    found = CertificateFiles(str(files.ca), str(files.cert), str(files.key))
    newer = issue(MIDDLE)
    swaps = iter([newer])
    read = files_module.read_file

    def meanwhile(path: str) -> bytes:
        data = read(path)
        for leaf in swaps:  # after the first file, and only once
            files.put(leaf)
        return data

    monkeypatch.setattr(files_module, "read_file", meanwhile)
    contents = found.read()
    assert (contents.cert, contents.key) == (chain_of(newer), key_of(newer))
