"""What can go wrong with the Kubernetes API."""

from __future__ import annotations

from collections.abc import Mapping

from pymicro.base.errors import PymicroError
from pymicro.identity.handshakes import Fault, fault_in

__all__ = ["KubeError", "tls_hint"]


class KubeError(PymicroError):
    """The API server refused, or could not be asked.

    The text is for people: what was asked of which server, and what happened. For a 403 it
    also names the account and the missing RBAC rule.

    Attributes:
        status: The HTTP status; 0 if no answer came (connection, TLS, time, credentials).
        reason: The server's own word for it (`Forbidden`, `Expired`); may be empty.
        retry_after: For how many seconds the server asks us to stay away; None if it does not say.
        kind: A word for counting: `connection`, `timeout`, `malformed` …; by default the one for `status`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = "",
        retry_after: float | None = None,
        kind: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.kind = kind or _kind(status, reason)

    @property
    def expired(self) -> bool:
        """Whether the server no longer serves our version (or `continue` token): list again."""
        return self.kind == "expired"


# Servers before 1.17 say "Gone". A version that the server has not reached yet (etcd was
# restored from a backup) is as useless as one that it has forgotten.
_EXPIRED = frozenset({"Expired", "Gone", "ResourceVersionTooLarge"})

_KINDS = {401: "unauthorized", 403: "forbidden", 404: "missing", 410: "expired", 429: "throttled"}


def _kind(status: int, reason: str) -> str:
    if reason in _EXPIRED:
        return "expired"
    if status in _KINDS:
        return _KINDS[status]
    if status >= 500:
        return "server"
    return "refused" if status else "connection"


_HINTS: Mapping[Fault, str] = {
    "authority": (
        "its certificate comes from no authority that is believed here: those of the kubeconfig's "
        "certificate-authority, or of the service account's ca.crt"
    ),
    "expired": "its certificate, or its authority's, has expired",
    "early": "its certificate is not valid yet: are the clocks right?",
    "unfit": "its certificate, or one of an authority behind it, was not issued for this",
    "name": "its certificate is for another name: tls-server-name in the kubeconfig says which one to expect",
    "plain": "it speaks plain HTTP there",
    "version": "it speaks another version of TLS: 1.2 is the lowest",
}


def tls_hint(text: str) -> str:
    """What a failed handshake with an API server means, in brackets; empty if it was none.

    Args:
        text: The library's words.
    """
    if hint := _HINTS.get(fault_in(text)):
        return f" ({hint})"
    # Only with a client's certificate does a server end a handshake by such a word.
    return " (it does not take the client certificate, or wants one)" if "ALERT" in text else ""
