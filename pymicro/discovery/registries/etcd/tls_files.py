"""The files of etcd's TLS, checked before they are used: grpc-core only says that a handshake failed."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec

from pymicro.base.errors import ConfigError
from pymicro.identity.contexts import as_file
from pymicro.identity.files import BadCertificate, CertificateFiles, Contents

__all__ = ["TlsFiles"]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files; empty if there is no file."""

    ca: str
    cert: str
    key: str

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Authorities, key and certificate as they are now, all of one moment; each call reads them anew.

        Raises:
            ConfigError: A file cannot be read or is not what it should be; the text names
                setting and file.
        """
        try:
            contents = CertificateFiles(self.ca, self.cert, self.key).read()
        except BadCertificate as exc:
            raise ConfigError(f"{self._setting(exc.path)}: {exc}") from exc
        if self.ca:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            try:
                # What stands between the certificates of such a file may be in any encoding.
                context.load_verify_locations(cadata=contents.ca.decode("ascii", "ignore"))
            except (ssl.SSLError, ValueError) as exc:
                raise ConfigError(f"registry_tls_ca: {self.ca} has no certificate: {_why(exc)}") from None
        if self.cert:
            self._check_shown(contents)
        return contents.ca or None, contents.key, contents.cert

    def _setting(self, path: str) -> str:
        """The settings that name a file; all of them if none does."""
        given = {"registry_tls_ca": self.ca, "registry_tls_cert": self.cert, "registry_tls_key": self.key}
        set_ = [name for name, path in given.items() if path]
        about = [name for name in set_ if given[name] == path]
        return ", ".join(about or set_)

    def _check_shown(self, contents: Contents) -> None:
        """Raises ConfigError if the certificate must not be shown: etcd would only end the connection."""
        what = "registry_tls_cert and registry_tls_key"
        if find_spec("cryptography"):
            from pymicro.identity.checking import check_shown

            try:
                check_shown(contents, datetime.now(UTC))
            except BadCertificate as exc:
                raise ConfigError(f"{what}: {exc}") from exc
            return
        # Without the extra `tls`, which this registry does not need: all but its dates.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            with as_file(contents.cert or b"") as cert, as_file(contents.key or b"") as key:
                # Without this, Python would ask for a key's password at the terminal.
                context.load_cert_chain(cert, key, password=lambda: b"")
        except (ssl.SSLError, OSError, ValueError) as exc:
            raise ConfigError(
                f"{what}: {self.cert} and {self.key} are no certificate with its key: {_why(exc)}"
            ) from None


def _why(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
