"""Why a TLS handshake failed, by what the library says of it.

OpenSSL and grpc-core's BoringSSL name one cause in different ways, and an older grpcio hardly does. What
it means, and which setting to change, knows whoever made the connection.
"""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["Fault", "fault_in", "unfitness", "why_not_taken"]

Fault = Literal[
    "",
    "name",
    "expired",
    "early",
    "unfit",
    "unshown",
    "untold",
    "authority",
    "plain",
    "version",
    "alpn",
    "disliked",
    "ended",
]

# What else the library has against a certificate, or against one behind it.
_UNFIT = re.compile(
    r"(?:CERTIFICATE_VERIFY_FAILED|certificate verify failed): "
    r"(?!unable to|self.signed|certificate signature failure|certificate not trusted)([a-z][\w ,'-]*[a-z])|"
    r"_TOO_(?:SMALL|WEAK|LONG)\] ([a-z][\w ]*[a-z])|"
    r"KEY_USAGE_BIT_INCORRECT()"
)

# The first one that is found counts.
_FAULTS: tuple[tuple[Fault, re.Pattern[str]], ...] = (
    (
        "name",
        re.compile(
            r"Hostname Verification|is not in peer certificate|[Hh]ostname mismatch|IP address mismatch|"
            r"doesn't match"
        ),
    ),
    ("expired", re.compile(r"certificate has expired")),
    ("early", re.compile(r"certificate is not yet valid")),
    ("unfit", _UNFIT),
    ("unshown", re.compile("PEER_DID_NOT_RETURN_A_CERTIFICATE")),
    # grpcio 1.68 tells no cause, 1.85 does.
    ("untold", re.compile(r"CERTIFICATE_VERIFY_FAILED(?![\]:])")),
    ("authority", re.compile(r"CERTIFICATE_VERIFY_FAILED|certificate verify failed")),
    # The answer was no TLS.
    (
        "plain",
        re.compile(
            r"WRONG_VERSION_NUMBER|HTTP_REQUEST|RECORD_LAYER_FAILURE|PACKET_LENGTH_TOO_LONG|BAD_RECORD_TYPE"
        ),
    ),
    ("version", re.compile(r"PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL|NO_PROTOCOLS_AVAILABLE")),
    ("alpn", re.compile(r"ALPN|Cannot check peer|missing selected ALPN", re.IGNORECASE)),
    # The other end ended it; a word of its own is an alert (RFC 8446, 6.2), if it came at all.
    (
        "disliked",
        re.compile(r"ALERT_UNKNOWN_CA|ALERT_(BAD|UNSUPPORTED)_CERTIFICATE|ALERT_CERTIFICATE|ACCESS_DENIED"),
    ),
    (
        "ended",
        re.compile(
            r"ALERT|Socket closed|reset by peer|Broken pipe|ended the connection|EOF|Connection lost|"
            # With TLS 1.3 the word comes after grpc-core took the handshake for done.
            r"Unwrap failed|shut ?down"
        ),
    ),
)


def fault_in(text: str) -> Fault:
    """What was wrong, in a word; empty if the text has nothing to do with TLS.

    Args:
        text: The library's words.

    Returns:
        `name`: the server's certificate is for another one. `expired`, `early`: it is not valid now.
        `authority`: it comes from none that is believed. `untold`: one of the last three. `unfit`: it is
        not made for this, as `unfitness` says. `plain`: what answers speaks no TLS. `version`, `alpn`: it
        speaks an older one, or no HTTP/2. `unshown`: a caller has shown none. `disliked`: the other end
        says that it does not take the own one. `ended`: it ended the connection, which may mean the same.
    """
    return next((fault for fault, pattern in _FAULTS if pattern.search(text)), "")


def unfitness(text: str) -> str:
    """What a certificate that is `unfit` is not made for, in the library's words."""
    found = _UNFIT.search(text)
    return next(filter(None, found.groups()), "key usage") if found is not None else ""


# Of a caller, what its server says in the log.
_NOT_TAKEN: dict[Fault, str] = {
    "unshown": "it showed no certificate",
    "expired": "its certificate has expired",
    "early": "its certificate is not valid yet (are the clocks right?)",
    "authority": "its certificate comes from no authority of tls_ca",
    "plain": "it spoke plain text",
    "version": "it speaks no TLS 1.2 or newer",
    "disliked": "it did not accept this process's certificate",
}


def why_not_taken(text: str) -> str:
    """Why a server's handshake with a caller failed; empty if the caller only went away.

    Args:
        text: OpenSSL's words.
    """
    fault = fault_in(text)
    if fault == "unfit":
        return f"its certificate is of no use here: {unfitness(text)}"
    return _NOT_TAKEN.get(fault, "")
