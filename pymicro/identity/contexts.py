"""Python's own form of an identity, for connections that live in the event loop."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from pymicro.identity.identity import Identity

__all__ = ["as_file", "client_context", "server_context"]

# What gRPC speaks inside TLS. The loop does not insist on it: see `selected_alpn_protocol`.
_ALPN = ["h2"]

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


def _fill(context: ssl.SSLContext, identity: Identity) -> None:
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
