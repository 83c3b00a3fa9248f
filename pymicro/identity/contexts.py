"""Python's own form of an identity, for connections that live in the event loop."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pymicro.identity.identity import Identity

__all__ = ["as_file", "client_context", "server_context", "why_of_no_use"]

# What gRPC speaks inside TLS. The loop does not insist on it: see `selected_alpn_protocol`.
_ALPN = ["h2"]

# Of X509_VERIFY_PARAM_set_flags(3), which Python has no name for.
_NO_CHECK_TIME = 0x200000

_ASKED = {"require": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}


def client_context(identity: Identity) -> ssl.SSLContext:
    """For connections to servers, whose certificates are checked, their names too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _fill(context, identity)
    return context


def server_context(identity: Identity, clients: str) -> ssl.SSLContext:
    """For connections from clients.

    Args:
        identity: With a certificate.
        clients: The setting `tls_client_certificates`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = _ASKED[clients]
    _fill(context, identity)
    return context


def why_of_no_use(identity: Identity) -> str:
    """What OpenSSL has against an identity, in its words; empty if it takes it.

    It shakes hands with itself: what an authority must not do (sign, name others, be so far up a chain) is
    its business, and its peers' only word for it would be that the handshake failed. Dates are not looked at.
    A certificate that is for servers only, or for clients only, is good for one of the two.
    """
    why = ""
    for asked in (ssl.CERT_NONE, ssl.CERT_REQUIRED):  # of the client: the server's certificate, then its own
        try:
            server, client = server_context(identity, "none"), client_context(identity)
            if identity.chain is None:
                return ""
            client.check_hostname = False
            server.verify_mode = asked
            client.verify_mode = ssl.CERT_REQUIRED if asked is ssl.CERT_NONE else ssl.CERT_NONE
            for context in (server, client):
                context.verify_flags |= _NO_CHECK_TIME
            _shake_hands(server, client)
        except ssl.SSLError as exc:
            # One that is raised in Python has neither.
            reason = getattr(exc, "reason", None) or ""
            words = getattr(exc, "verify_message", "") or reason.replace("_", " ").lower()
            why = why or words or str(exc).rpartition("failed: ")[2]
        else:
            return ""
    return why


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Raises ssl.SSLError if one of the two does not believe the other one."""
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(one, other), server.wrap_bio(other, one, server_side=True)]
    for _ in range(4):  # turns: the last word of TLS 1.3 is the client's
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    for end in ends:
        # OpenSSL passes over such an address, and an older grpc-core ends the process.
        certificate: dict[str, Any] = end.getpeercert() or {}
        if ("IP Address", "<invalid>") in certificate.get("subjectAltName", ()):
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "an IP address of another length than such have")


class _ReadableNames(ssl.SSLObject):
    """Says of a certificate whose names Python cannot read that it does not pass.

    The loop asks for the names when a handshake has ended, and takes another error for a bug, with two
    tracebacks for each connection.
    """

    def getpeercert(self, binary_form: bool = False) -> Any:
        try:
            return super().getpeercert(binary_form)
        except UnicodeError as exc:
            text = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: names that are no text"
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, text) from exc


def _fill(context: ssl.SSLContext, identity: Identity) -> None:
    context.sslobject_class = _ReadableNames
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    # As in grpc-core: whoever is in the file is believed, be it the root or an authority below it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_TRUSTED_FIRST
    context.load_verify_locations(cadata=identity.ca.decode("ascii"))
    if identity.chain is not None and identity.key is not None:
        # Python reads a key from files only. The set in the user's files may be another one by now.
        with as_file(identity.key + identity.chain) as path:
            context.load_cert_chain(path)


@contextmanager
def as_file(data: bytes) -> Iterator[str]:
    """A path to read `data` from once, which nobody else can read; on Linux it is on no disk."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, data)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:  # of mode 0600
            file.write(data)
            file.flush()
            yield file.name
