"""Why an encrypted connection could not be made, in words that say what to do.

Both transports take their words from here.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from pymicro.base.printable import excerpt
from pymicro.calling.connections.client_tls import Secured
from pymicro.identity.checking import moment
from pymicro.identity.handshakes import Fault, fault_in, unfitness

__all__ = ["Explanation", "told_in", "with_sentence"]


class Explanation(NamedTuple):
    """What a failure to connect means.

    Attributes:
        sentence: For whoever calls; empty if it has nothing to do with TLS.
        advice: Which setting, file or clock to change; empty if nothing here or there would help. `{now}`
            in it stands for the time here: clocks that differ look like certificates that are wrong.
    """

    sentence: str
    advice: str = ""


_NOTHING = Explanation("")
_TOLD: dict[Fault, Explanation] = {
    "expired": Explanation(
        "the node's certificate has expired",
        "see to what renews it: the node reads its files again, and its log (pymicro.identity) says why it "
        "takes no newer one. Or the clock here is ahead: it is {now}",
    ),
    "early": Explanation(
        "the node's certificate is not valid yet (are the clocks right?)",
        "set the clocks (NTP): the one here is behind, or its issuer's was ahead. It is {now} here",
    ),
    "untold": Explanation(
        "the node's certificate is not valid now, or comes from no authority of tls_ca",
        "see to what renews the node's certificate, and to the clocks (it is {now} here); or put its "
        "authority into tls_ca, or ca.crt of tls_dir",
    ),
    "authority": Explanation(
        "the node's certificate comes from no authority of tls_ca",
        "put the authority of the node's certificate into tls_ca, or ca.crt of tls_dir, here",
    ),
    "plain": Explanation(
        "the node speaks plain text there, and this process wants TLS (client_tls)",
        "give the node a certificate (tls_dir), or call it with client_tls=auto until it has one",
    ),
    "version": Explanation("the node speaks another version of TLS: 1.2 is the lowest"),
    "alpn": Explanation("what listens there speaks TLS, and no HTTP/2"),
}
_NO_TLS_HERE = Explanation(
    "it ended the connection: perhaps it speaks TLS (client_tls, tls_ca)",
    "call it over TLS: client_tls=require, with tls_dir, tls_bundle or tls_ca. (A labelled pod says so "
    "by the annotation micro.mu/metadata-tls.)",
)
_NONE_SHOWN = Explanation(
    "the node ended the handshake: perhaps it asks for a certificate, and this process has none "
    "(tls_dir, tls_bundle, or tls_cert and tls_key)",
    "set tls_dir or tls_bundle here, or tls_client_certificates=none at the node",
)
_NOT_BELIEVED = Explanation(
    "the node ended the handshake: perhaps it does not believe this process's certificate",
    "put the authority of this process's certificate into ca.crt (tls_ca) of the node. If it is there, "
    "compare the clocks: by the node's, this certificate may not be valid now. It is {now} here. Or it is "
    "for servers only: have it issued for clients too (clientAuth)",
)


def _told(text: str, secured: Secured | None) -> Explanation:
    """What the library's words mean; see `with_sentence`."""
    if secured is None:
        ended = "Socket closed" in text or "ended the connection before it spoke" in text
        return _NO_TLS_HERE if ended else _NOTHING
    fault = fault_in(text)
    if fault == "name":
        return Explanation(
            f"the node's certificate is not for the name {excerpt(secured.name)} (tls_server_name)",
            "have that DNS name in the node's certificate, or say with tls_server_name which name it has",
        )
    if fault == "unfit":
        return Explanation(
            f"the node's certificate is of no use here: {unfitness(text)}",
            "have it issued for servers (serverAuth, digitalSignature), by an authority that may issue it "
            "(CA, path length, name constraints), and put that one into tls_ca, or ca.crt of tls_dir",
        )
    if fault in ("ended", "disliked"):
        if secured.identity.chain is None:
            return _NONE_SHOWN
        end = secured.identity.not_after
        if end is not None and end < time.time():
            return Explanation(
                f"the node ended the handshake: this process's own certificate expired at {moment(end)}, "
                "and its files have no newer one",
                "see to what renews it: the files are read again, and the log (pymicro.identity) says why no "
                "newer one is taken (tls_dir, tls_bundle, tls_cert). It is {now} here",
            )
        return _NOT_BELIEVED
    return _TOLD.get(fault, _NOTHING)


def with_sentence(text: str, secured: Secured | None) -> str:
    """The library's words, and what they mean behind them if they have to do with TLS.

    Args:
        text: The library's words for a failure to connect.
        secured: How the connection was to be encrypted; None for plain text.
    """
    sentence = _told(text, secured).sentence
    return f"{text}; {sentence}" if sentence else text


def told_in(text: str, secured: Secured | None, now: float) -> Explanation | None:
    """What `with_sentence` has put behind a text, with the advice for it; None if nothing.

    Args:
        text: What it has made.
        secured: As it was told.
        now: Seconds since 1970, for the advice.
    """
    raw, _, last = text.rpartition("; ")
    told = _told(raw, secured)
    # Our own words must not be taken for the library's.
    if not last or last != told.sentence:
        return None
    return told._replace(advice=told.advice.format(now=moment(now)))
