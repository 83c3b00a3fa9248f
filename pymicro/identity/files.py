"""Which files a process's certificates are in, and what was in them at one moment."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from pymicro.base.errors import ConfigError

__all__ = ["BadCertificate", "CertificateFiles", "Contents", "read_file"]

# What Kubernetes' secrets of type kubernetes.io/tls, cert-manager and its csi drivers write.
_CERT, _KEY, _CA = "tls.crt", "tls.key", "ca.crt"

# Bytes of one file: the bundle of all public authorities has a quarter of this.
MOST = 1 << 20
# How often a set is read again that changed while it was read.
_ATTEMPTS = 5


class BadCertificate(Exception):
    """Certificates that must not be used; the text is one sentence for people.

    Args:
        text: The sentence.
        path: The file that it is about; empty if it is about several.
    """

    def __init__(self, text: str, path: str = "") -> None:
        super().__init__(text)
        self.path = path


@dataclass(frozen=True, slots=True)
class Contents:
    """What was in the files at one moment.

    Attributes:
        files: Which files.
        ca: The authorities; empty if no file has any.
        cert: The certificate and its chain; None if there is none.
        key: Its key; None if there is none.
        digest: Of all of it: equal for equal contents.
    """

    files: CertificateFiles
    ca: bytes = field(repr=False)
    cert: bytes | None = field(repr=False)
    key: bytes | None = field(repr=False)

    @property
    def digest(self) -> bytes:
        """Equal for equal contents."""
        parts = (self.ca, self.cert or b"", self.key or b"")
        return sha256(b"".join(sha256(part).digest() for part in parts)).digest()


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Paths of PEM files.

    Attributes:
        ca: The authorities whose certificates are believed; empty only where the system's are.
        cert: The certificate of this process, followed by those that lead to an authority; empty for
            a process that only checks others.
        key: The key of that certificate; may be the same file.
    """

    ca: str
    cert: str = ""
    key: str = ""

    @classmethod
    def of(
        cls, *, cert: str = "", key: str = "", ca: str = "", directory: str = "", bundle: str = ""
    ) -> CertificateFiles | None:
        """The files that the settings `tls_cert`, `tls_key`, `tls_ca`, `tls_dir`, `tls_bundle` name.

        Returns:
            None if none is set.

        Raises:
            ConfigError: The settings contradict each other, or one is missing.
        """
        if not (cert or key or ca or directory or bundle):
            return None
        ways = {"tls_dir": directory, "tls_bundle": bundle, "tls_cert": cert}
        given = [name for name, value in ways.items() if value]
        if len(given) > 1:
            raise ConfigError(
                f"{' and '.join(given)} are both set, and each says where the certificate is: keep one"
            )
        if key and not cert:
            raise ConfigError(
                "tls_key is set and tls_cert is not: the two belong together "
                "(tls_dir and tls_bundle name the key themselves)"
            )
        if cert and not key:
            raise ConfigError("tls_cert is set and tls_key is not: name the file with the certificate's key")
        if directory:
            folder = Path(directory)
            return cls(ca or str(folder / _CA), str(folder / _CERT), str(folder / _KEY))
        if not ca:
            raise ConfigError(
                f"{given[0]} is set and tls_ca is not: name the file with the authorities whose "
                "certificates are believed"
            )
        return cls(ca, bundle or cert, bundle or key)

    @property
    def paths(self) -> tuple[str, ...]:
        """Each file once."""
        return tuple(dict.fromkeys(path for path in (self.cert, self.key, self.ca) if path))

    def read(self) -> Contents:
        """What is in the files now: all of one moment, even if they are replaced meanwhile.

        Raises:
            BadCertificate: A file cannot be read, or is none; or they change faster than they are read.
        """
        for attempt in range(_ATTEMPTS):
            last = attempt + 1 == _ATTEMPTS
            before = self._marks()
            try:
                found = {path: read_file(path) for path in self.paths}
            except BadCertificate:
                # A folder that was swapped under us: what was there a moment ago is gone.
                if last or before == self._marks():
                    raise
                continue
            if before == self._marks():
                cert, key = (found[path] if path else None for path in (self.cert, self.key))
                return Contents(self, found[self.ca] if self.ca else b"", cert, key)
        raise BadCertificate(f"{', '.join(self.paths)} changed each time while they were read")

    def _marks(self) -> list[tuple[int, ...] | None]:
        """Changes if a file is written, replaced, or reached by another link."""
        marks: list[tuple[int, ...] | None] = []
        for path in self.paths:
            try:
                found = os.stat(path)
            except (OSError, ValueError):
                marks.append(None)
            else:
                marks.append(
                    (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
                )
        return marks


def read_file(path: str, kind: str = "PEM") -> bytes:
    """A file, which is read in bounded time and memory whatever it is.

    Args:
        path: Which.
        kind: What is wanted there, for messages.

    Raises:
        BadCertificate: It cannot be read, is no file, or holds nothing or far too much.
    """
    try:
        # A pipe without a writer would block an open without this.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
                what = "a directory" if stat.S_ISDIR(mode) else "no file"
                raise BadCertificate(f"{path} is {what}, where a file with {kind} is wanted", path)
            found = b""
            while len(found) <= MOST and (part := os.read(descriptor, MOST + 1 - len(found))):
                found += part
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as exc:
        why = (exc.strerror or str(exc)) if isinstance(exc, OSError) else str(exc)
        hint = ""
        if isinstance(exc, OSError) and exc.errno == errno.EACCES:
            hint = " (this process runs as another user than the file allows)"
        raise BadCertificate(f"{path} cannot be read: {why}{hint}", path) from exc
    if len(found) > MOST:
        raise BadCertificate(f"{path} is larger than {MOST >> 20} MiB: it is no file with {kind}", path)
    if not found.strip():
        raise BadCertificate(f"{path} is empty", path)
    return found
