"""Registry `etcd` over TLS: whose certificates are taken, and what is told of the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from pymicro.base.errors import ConfigError, RegistryError
from pymicro.discovery.registries.etcd import EtcdRegistry
from tests.discovery.registries.etcd_support import etcd_registry, node, watching
from tests.etcd_server import Etcd, EtcdTls


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


@pytest.mark.parametrize("setting", ["registry_tls_ca", "registry_tls_cert", "registry_tls_key"])
async def test_a_file_that_cannot_be_read_is_named_when_it_is_entered(secure: Secure, setting: str) -> None:
    registry = secure.registry(**{setting: "/nowhere/x.pem"})
    with pytest.raises(ConfigError, match=f"{setting}: cannot read /nowhere/x.pem: No such file"):
        await registry.__aenter__()


async def test_files_that_are_no_certificates_are_named_when_it_is_entered(
    secure: Secure, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    with pytest.raises(ConfigError, match=f"registry_tls_ca: {bad} has no certificate"):
        await secure.registry(registry_tls_ca=str(bad)).__aenter__()
    with pytest.raises(ConfigError, match=f"{bad} and .*client.key are no certificate with its key"):
        await secure.registry(registry_tls_cert=str(bad)).__aenter__()
    other = secure.folder / "server.key"
    with pytest.raises(ConfigError, match=r"are no certificate with its key: .*MISMATCH"):
        await secure.registry(registry_tls_key=str(other)).__aenter__()
