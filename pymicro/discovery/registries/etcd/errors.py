"""What can go wrong with etcd, in words for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import grpc
import grpc.aio

from pymicro.base.errors import RegistryError
from pymicro.base.printable import as_argument, excerpt, shortened
from pymicro.identity.handshakes import Fault, fault_in

__all__ = ["Doing", "EtcdError", "answers_elsewhere", "denied", "is_stale_token", "reason", "refused"]

Kind = Literal["away", "denied", "user", "compacted", "too large", "lease", "files", "refused"]


class EtcdError(RegistryError):
    """etcd refused, or no endpoint could be asked.

    Attributes:
        kind: A word that is the same for the same failure, whatever its details.
    """

    def __init__(self, message: str, *, kind: Kind) -> None:
        super().__init__(f"registry etcd: {message}")
        self.kind: Kind = kind

    # Another process that unpickles this error needs only the words.
    def __reduce__(self) -> tuple[type[RegistryError], tuple[str]]:
        return RegistryError, (str(self),)


@dataclass(frozen=True, slots=True)
class Doing:
    """A request to etcd, for messages.

    Attributes:
        verb: `read`, `watch`, `put` …
        key: The key it is about; empty if there is none.
        prefix: Whether `key` stands for all keys that begin with it.
        right: The permission it needs.
    """

    verb: str
    key: str = ""
    prefix: bool = False
    right: Literal["", "read", "write"] = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.keys}" if self.key else self.verb

    @property
    def keys(self) -> str:
        """`/micro/registry/greeter/*`."""
        key = self.key if self.key.isprintable() else repr(self.key)[1:-1]
        return f"{key}*" if self.prefix else key


# Words that grpc-core puts around the reason; only the reason is of use.
_AROUND = re.compile(
    r"^(failed to connect to all addresses; last error: )?(UNKNOWN|UNAVAILABLE): |"
    r"(ipv4|ipv6|dns):\S+?: |Failed to connect to remote host: |connect: |etcdserver: | \(\d+\)$"
)
_LONGEST = 300


def reason(error: grpc.aio.AioRpcError, timeout: float, *, tls: bool | None = None) -> str:
    """Why a call failed, as a clause.

    Args:
        error: The call's error.
        timeout: The call's timeout.
        tls: Whether the connection has TLS, if this was the first call on it.
    """
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {timeout:g} s"
    text = " ".join((error.details() or "").split())
    while (shorter := _AROUND.sub("", text)) != text:
        text = shorter
    text = shortened(text or error.code().name, _LONGEST)
    return f"{text}{_hint(text, tls)}"


_HINTS: Mapping[Fault, str] = {
    "authority": "registry_tls_ca has to name the authority that signed etcd's certificate",
    "untold": (
        "registry_tls_ca has to name the authority that signed etcd's certificate, which must be valid now"
    ),
    "expired": "etcd's certificate, or its authority's, has expired: etcd needs a new one",
    "early": "etcd's certificate is not valid yet: are the clocks right?",
    "unfit": "etcd's certificate, or one of an authority behind it, was not issued for this",
    "name": "its certificate is for another name than the one in registry_address",
    "version": "it speaks another version of TLS: 1.2 is the lowest",
}


def _hint(text: str, tls: bool | None) -> str:
    if hint := _HINTS.get(fault_in(text)):
        return f" ({hint})"
    if "ALERT" in text or "Unwrap failed" in text:
        return " (it wants another client certificate: registry_tls_cert, registry_tls_key)"
    if "WRONG_VERSION_NUMBER" in text or (tls and ("Socket closed" in text or "reset" in text)):
        return " (perhaps it speaks no TLS there, or wants another client certificate)"
    if tls is False and ("Socket closed" in text or "reset" in text):
        return " (perhaps it wants TLS: write https://, or give registry_tls_ca)"
    return ""


_ELSEWHERE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DATA_LOSS,
    }
)


def answers_elsewhere(error: grpc.aio.AioRpcError) -> bool:
    """Whether another member may do what this one did not. Every request may safely be sent twice."""
    return error.code() in _ELSEWHERE or "learner" in (error.details() or "")


def is_stale_token(error: grpc.aio.AioRpcError) -> bool:
    """Whether new authentication may help: the token ran out, or users were switched on or changed."""
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return True
    details = error.details() or ""
    return error.code() is grpc.StatusCode.INVALID_ARGUMENT and (
        "revision of auth store is old" in details or "user name is empty" in details
    )


_KINDS: Mapping[grpc.StatusCode, Kind] = {
    grpc.StatusCode.PERMISSION_DENIED: "denied",
    grpc.StatusCode.UNAUTHENTICATED: "user",
    grpc.StatusCode.OUT_OF_RANGE: "compacted",
    grpc.StatusCode.NOT_FOUND: "lease",
}


def refused(doing: Doing, endpoint: str, user: str, error: grpc.aio.AioRpcError) -> EtcdError:
    """The error for an answer that every endpoint would give."""
    if error.code() is grpc.StatusCode.PERMISSION_DENIED:
        return denied(doing, endpoint, user)
    details = error.details() or ""
    if "user name is empty" in details:
        return EtcdError(
            f"cannot {doing}: {endpoint} wants a user: set registry_user and registry_password", kind="user"
        )
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return EtcdError(
            f"cannot {doing}: what answers at {endpoint} is no etcd with API v3 ({shortened(details)})",
            kind="refused",
        )
    # This is grpc's error about a response, and not etcd's.
    kind = "too large" if "larger than max" in details else _KINDS.get(error.code(), "refused")
    return EtcdError(f"cannot {doing}: {endpoint} answered: {reason(error, 0)}", kind=kind)


def denied(doing: Doing, endpoint: str, user: str) -> EtcdError:
    """The error that says which user lacks which permission on which keys."""
    who = f"user {excerpt(user)}" if user else "the user of the client certificate"
    lacking = f"the permission {doing.right} on {doing.keys}" if doing.right else "a permission"
    prefix = "--prefix " if doing.prefix else ""
    # The key has the name of a service, which a caller may have chosen.
    key = as_argument(doing.key)
    command = f"etcdctl role grant-permission ROLE {prefix}{doing.right} {key}"
    grant = f" ({command})" if doing.right and key else ""
    return EtcdError(f"cannot {doing}: {who} lacks {lacking} at {endpoint}{grant}", kind="denied")
