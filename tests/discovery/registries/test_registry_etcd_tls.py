"""Registry `etcd` over TLS: whose certificates are taken, and what is told of the others."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_pem_x509_certificate

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.discovery.registries.etcd import EtcdRegistry
from pymicro.discovery.registries.etcd.tls_files import TlsFiles
from tests.certificates import Folder, chain_of, issue, key_of, pem_of
from tests.discovery.registries.etcd_support import etcd_registry, node, watching
from tests.etcd_server import Etcd, EtcdTls
from tests.handshakes import outdated, shaking_hands

# grpcio 1.68 says only that a certificate does not pass.
TELLS = grpc.__version__ >= "1.85"


@dataclass
class Secure:
    """An etcd that asks for certificates, and files of one that it takes.

    Attributes:
        authority: That signed all of them.
    """

    etcd: Etcd
    authority: trustme.CA
    folder: Path

    def files(self) -> dict[str, str]:
        """The settings that belong to it."""
        return {
            "registry_tls_ca": str(self.folder / "ca.pem"),
            "registry_tls_cert": str(self.folder / "client.pem"),
            "registry_tls_key": str(self.folder / "client.key"),
        }

    def registry(self, address: str = "", **settings: Any) -> EtcdRegistry:
        return etcd_registry(address or self.etcd.address, **{**self.files(), **settings})


def write(authority: trustme.CA, folder: Path, name: str, *identities: str) -> None:
    """A certificate and its key: `name.pem`, `name.key`."""
    issued = authority.issue_cert(*identities)
    issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    issued.private_key_pem.write_to_path(folder / f"{name}.key")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "stranger.pem")
    write(authority, folder, "server", "127.0.0.1", "etcd.example")
    write(authority, folder, "client", "client.example")
    tls = EtcdTls(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    with Etcd(tmp_path_factory.mktemp("etcd"), tls=tls) as etcd:
        yield Secure(etcd, authority, folder)


@pytest.mark.parametrize("scheme", ["", "https://"])
async def test_a_client_with_a_certificate_registers_and_watches(secure: Secure, scheme: str) -> None:
    registry = secure.registry(f"{scheme}{secure.etcd.address}")
    async with registry, watching(registry) as watcher:
        await registry.register(node())
        await watcher.sees(node())
        await registry.deregister(node())
        await watcher.sees()


async def test_a_server_of_another_authority_is_not_trusted(secure: Secure) -> None:
    stranger = str(secure.folder / "stranger.pem")
    async with secure.registry(registry_tls_ca=stranger) as registry:
        with pytest.raises(RegistryError, match="registry_tls_ca has to name the authority that signed"):
            await registry.register(node())


async def test_without_an_authority_of_its_own_it_is_not_trusted(secure: Secure) -> None:
    async with etcd_registry(f"https://{secure.etcd.address}") as registry:
        with pytest.raises(RegistryError, match="registry_tls_ca has to name the authority that signed"):
            await registry.register(node())


async def test_a_server_under_another_name_is_not_trusted(secure: Secure) -> None:
    _, _, port = secure.etcd.address.rpartition(":")
    async with secure.registry(f"localhost:{port}") as registry:
        with pytest.raises(RegistryError, match="its certificate is for another name"):
            await registry.register(node())


async def test_a_client_without_a_certificate_is_told(secure: Secure) -> None:
    registry = etcd_registry(secure.etcd.address, registry_tls_ca=secure.files()["registry_tls_ca"])
    async with registry:
        with pytest.raises(RegistryError, match=f"cannot get a lease of 60 s: {secure.etcd.address}: "):
            await registry.register(node())


async def test_plain_text_to_an_etcd_with_tls_is_told(secure: Secure) -> None:
    async with etcd_registry(secure.etcd.address) as registry:
        with pytest.raises(RegistryError, match="perhaps it wants TLS"):
            await registry.register(node())


async def test_tls_to_an_etcd_without_is_told(secure: Secure, tmp_path: Path) -> None:
    with Etcd(tmp_path) as plain:
        async with secure.registry(plain.address) as registry:
            with pytest.raises(RegistryError, match="perhaps it speaks no TLS there"):
                await registry.register(node())


async def test_rotated_certificates_are_read_for_the_next_connection(secure: Secure, tmp_path: Path) -> None:
    """etcd takes only certificates of a new authority from its restart on."""
    folder = tmp_path / "rotated"
    folder.mkdir()
    new = trustme.CA()
    for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key"):
        (folder / name).write_bytes((secure.folder / name).read_bytes())
    tls = EtcdTls(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    with Etcd(tmp_path, tls=tls) as etcd:
        registry = Secure(etcd, new, folder).registry()
        async with registry, watching(registry) as watcher:
            await registry.register(node(1))
            await watcher.sees(node(1))
            new.cert_pem.write_to_path(folder / "ca.pem")
            write(new, folder, "server", "127.0.0.1")
            write(new, folder, "client", "client.example")
            etcd.kill()
            etcd.start()
            await registry.register(node(1))
            await registry.register(node(2))
            await watcher.sees(node(1), node(2))


@contextlib.contextmanager
def showing(folder: Path, leaf: trustme.LeafCert) -> Iterator[Etcd]:
    """An etcd with this certificate, which asks for none."""
    (folder / "shown.pem").write_bytes(chain_of(leaf))
    (folder / "shown.key").write_bytes(key_of(leaf))
    with Etcd(folder, tls=EtcdTls(folder / "shown.pem", folder / "shown.key")) as etcd:
        yield etcd


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"days": -0.5}, "etcd's certificate, or its authority's, has expired"),
        ({"since": -1}, r"etcd's certificate is not valid yet: are the clocks right\?"),
    ],
)
async def test_a_server_whose_certificate_is_not_valid_now_is_not_trusted(
    secure: Secure, tmp_path: Path, given: dict[str, float], sentence: str
) -> None:
    leaf = issue(secure.authority, "127.0.0.1", **given)
    with showing(tmp_path, leaf) as etcd:
        async with secure.registry(etcd.address) as registry:
            with pytest.raises(RegistryError, match=sentence if TELLS else "which must be valid now"):
                await registry.register(node())


async def test_a_server_that_has_signed_itself_is_not_trusted(secure: Secure, tmp_path: Path) -> None:
    with showing(tmp_path, issue(trustme.CA(), "127.0.0.1")) as etcd:
        async with secure.registry(etcd.address) as registry:
            with pytest.raises(RegistryError, match="registry_tls_ca has to name the authority that signed"):
                await registry.register(node())


async def test_a_client_of_another_authority_is_told(secure: Secure, tmp_path: Path) -> None:
    own = client_files(tmp_path, issue(trustme.CA(), "client.example"))
    async with secure.registry(**own) as registry:
        with pytest.raises(RegistryError, match="wants another client certificate"):
            await registry.register(node())


async def test_versions_before_1_2_are_not_spoken(secure: Secure) -> None:
    """No etcd that is to be had stops at 1.1, so a server of OpenSSL's does it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(secure.folder / "server.pem", secure.folder / "server.key")
    with shaking_hands(outdated(context)) as port:
        async with secure.registry(f"127.0.0.1:{port}") as registry:
            with pytest.raises(RegistryError, match=r"it speaks another version of TLS: 1\.2 is the lowest"):
                await registry.register(node())


def client_files(folder: Path, leaf: trustme.LeafCert) -> dict[str, str]:
    """The settings of a client's certificate."""
    (folder / "own.pem").write_bytes(chain_of(leaf))
    (folder / "own.key").write_bytes(key_of(leaf))
    return {"registry_tls_cert": str(folder / "own.pem"), "registry_tls_key": str(folder / "own.key")}


@pytest.mark.parametrize("setting", ["registry_tls_ca", "registry_tls_cert", "registry_tls_key"])
async def test_a_file_that_cannot_be_read_is_named_when_it_is_entered(secure: Secure, setting: str) -> None:
    registry = secure.registry(**{setting: "/nowhere/x.pem"})
    with pytest.raises(ConfigError, match=f"^{setting}: /nowhere/x.pem cannot be read: No such file"):
        await registry.__aenter__()


async def test_a_pipe_without_a_writer_blocks_nobody(secure: Secure, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    registry = secure.registry(registry_tls_ca=str(tmp_path / "pipe"))
    with pytest.raises(ConfigError, match=r"registry_tls_ca: \S*pipe is no file"):
        await registry.__aenter__()


def empty(pem: Path, key: Path, secure: Secure) -> None:
    pem.write_bytes(b"")


def half(pem: Path, key: Path, secure: Secure) -> None:
    pem.write_bytes(pem.read_bytes()[:400])


def nothing(pem: Path, key: Path, secure: Secure) -> None:
    pem.write_text("nothing")


def of_another(pem: Path, key: Path, secure: Secure) -> None:
    key.write_bytes(key_of(issue(secure.authority, "client.example")))


def expired(pem: Path, key: Path, secure: Secure) -> None:
    client_files(pem.parent, issue(secure.authority, "client.example", days=-0.5))


def early(pem: Path, key: Path, secure: Secure) -> None:
    client_files(pem.parent, issue(secure.authority, "client.example", since=-1))


def with_a_password(pem: Path, key: Path, secure: Secure) -> None:
    loaded = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )


# Each with what is said of it without cryptography, too; nothing where only a handshake shows it.
SPOILT: list[tuple[Callable[[Path, Path, Secure], None], str, str]] = [
    (empty, r"own.pem is empty", r"own.pem is empty"),
    (half, r"own.pem is cut off: its CERTIFICATE has a beginning and no end", r"no certificate with its key"),
    (nothing, r"own.pem holds nothing in the form PEM", r"no certificate with its key"),
    (of_another, r"own.key does not belong to the certificate in \S+own.pem", r"MISMATCH"),
    (expired, r"own.pem \(client.example\) has expired: it was valid until 20", ""),
    (early, r"own.pem \(client.example\) is not valid before 20", ""),
    (with_a_password, r"own.key needs a passphrase", r"no certificate with its key"),
]


@pytest.mark.parametrize("extra", [True, False], ids=["with the extra tls", "without"])
@pytest.mark.parametrize(("spoil", "sentence", "plain"), SPOILT, ids=[case.__name__ for case, _, _ in SPOILT])
async def test_a_certificate_that_must_not_be_shown_is_an_error_when_it_is_entered(
    secure: Secure,
    tmp_path: Path,
    spoil: Callable[[Path, Path, Secure], None],
    sentence: str,
    plain: str,
    extra: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = client_files(tmp_path, issue(secure.authority, "client.example"))
    spoil(tmp_path / "own.pem", tmp_path / "own.key", secure)
    if not extra:
        monkeypatch.setattr("pymicro.discovery.registries.etcd.tls_files.find_spec", lambda name: None)
    registry = secure.registry(**own)
    if extra or plain:
        with pytest.raises(ConfigError, match=sentence if extra else plain) as caught:
            await registry.__aenter__()
        assert str(caught.value).startswith("registry_tls_")
        assert "\n" not in str(caught.value)
        return
    async with registry:
        with pytest.raises(RegistryError, match="wants another client certificate"):
            await registry.register(node())


async def test_an_authority_that_is_none_is_named_when_it_is_entered(secure: Secure, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    with pytest.raises(ConfigError, match=f"registry_tls_ca: {bad} has no certificate"):
        await secure.registry(registry_tls_ca=str(bad)).__aenter__()


async def test_a_certificate_that_is_renewed_in_time_is_shown_after_a_cut_and_a_bad_one_waits(
    secure: Secure, tmp_path: Path
) -> None:
    """Short-lived ones: those in use expire, and the files have been replaced meanwhile, once badly."""
    folder = Folder(tmp_path / "own")
    folder.issue(secure.authority, "client.example", days=3 / 86400)
    own = {
        "registry_tls_cert": str(folder.path / "tls.crt"),
        "registry_tls_key": str(folder.path / "tls.key"),
    }
    tls = EtcdTls(secure.folder / "server.pem", secure.folder / "server.key", secure.folder / "ca.pem")
    with Etcd(tmp_path, tls=tls) as etcd:
        registry = secure.registry(etcd.address, **own)
        async with registry, watching(registry) as watcher:
            await registry.register(node(1))
            await watcher.sees(node(1))
            end = load_pem_x509_certificate((folder.path / "tls.crt").read_bytes()).not_valid_after_utc
            while datetime.now(UTC) <= end:
                # A connection that stands ends with no certificate.
                await registry.register(node(1))
            etcd.kill()
            etcd.start()
            with pytest.raises(RegistryError, match=r"tls.crt \(client.example\) has expired"):
                await registry.register(node(2))
            folder.issue(secure.authority, "client.example")
            await registry.register(node(2))
            # The watch of before may have been told of the file meanwhile, and ended with it.
            async with watching(registry) as again:
                await again.sees(node(1), node(2))


def test_words_between_authorities_may_be_in_any_language(tmp_path: Path) -> None:
    path, authority = tmp_path / "ca.pem", pem_of(trustme.CA())
    path.write_bytes("# für Prüfer\n".encode("latin-1") + authority)
    assert TlsFiles(str(path), "", "").read()[0] == path.read_bytes()
