"""Why a TLS handshake failed, by what the library says of it.

OpenSSL and grpc-core's BoringSSL name one cause in different ways, and an older grpcio hardly does. What
it means, and which setting to change, knows whoever made the connection.
"""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["Fault", "fault_in", "why_not_taken"]

Fault = Literal["", "name", "expired", "early", "untold", "authority", "plain", "version", "alpn", "ended"]

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
    # The server ended it; a word of its own is an alert (RFC 8446, 6.2), if it came at all.
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
        `authority`: it comes from none that is believed. `untold`: one of the last three. `plain`: what
        answers speaks no TLS. `version`, `alpn`: it speaks an older one, or no HTTP/2. `ended`: it ended
        the connection, as it does with whose certificate it does not believe.
    """
    return next((fault for fault, pattern in _FAULTS if pattern.search(text)), "")


# What Python's OpenSSL says to a server.
_NOT_TAKEN = (
    (re.compile("PEER_DID_NOT_RETURN_A_CERTIFICATE"), "it showed no certificate"),
    (re.compile("certificate has expired"), "its certificate has expired"),
    (
        re.compile("certificate is not yet valid"),
        "its certificate is not valid yet (are the clocks right?)",
    ),
    (re.compile("CERTIFICATE_VERIFY_FAILED"), "its certificate comes from no authority of tls_ca"),
    (
        re.compile("HTTP_REQUEST|WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|PACKET_LENGTH_TOO_LONG"),
        "it spoke plain text",
    ),
    (re.compile("UNSUPPORTED_PROTOCOL|PROTOCOL_VERSION"), "it speaks no TLS 1.2 or newer"),
    (
        re.compile("ALERT_UNKNOWN_CA|ALERT_(BAD|UNSUPPORTED)_CERTIFICATE|ALERT_CERTIFICATE|ACCESS_DENIED"),
        "it did not accept this process's certificate",
    ),
)


def why_not_taken(text: str) -> str:
    """Why a server's handshake with a caller failed; empty if the caller only went away.

    Args:
        text: OpenSSL's words.
    """
    return next((words for pattern, words in _NOT_TAKEN if pattern.search(text)), "")
