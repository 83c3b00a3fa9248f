"""Certificates that were checked, as a value."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Identity"]


@dataclass(frozen=True, slots=True)
class Identity:
    """A process's certificate with its key, and the authorities that it believes; all fit to be used.

    Attributes:
        ca: The authorities, as PEM.
        chain: The certificate and those that lead to an authority, as PEM; None if this process has
            none, and only checks others.
        key: The certificate's key, as PEM; None if there is none.
        subject: The certificate's own name, for people; empty if it has none.
        names: The DNS names that the certificate is for.
        addresses: The IP addresses that it is for.
        uris: Its URIs; one that begins with `spiffe://` says which workload it is.
        not_after: When the first certificate of the chain expires, in seconds since 1970; None if
            there is none.
        digest: Equal for equal files.
    """

    ca: bytes = field(repr=False)
    chain: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    subject: str = ""
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    not_after: float | None = None
    digest: bytes = field(default=b"", repr=False)

    @property
    def title(self) -> str:
        """What people know it by: a DNS name, else a URI, else an address, else the subject."""
        return next(iter((*self.names, *self.uris, *self.addresses)), self.subject) or "a certificate"
