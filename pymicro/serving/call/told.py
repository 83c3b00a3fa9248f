"""Internal errors told in full, to a developer who calls from the same machine (`debug_errors`)."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import unquote

from pymicro.base.printable import shortened
from pymicro.base.tracebacks import format_traceback
from pymicro.nodes.address import split_address
from pymicro.rpc.status import Internal

__all__ = ["is_of_this_machine", "with_traceback"]

# Characters: they travel in a header, of which 8 KB are allowed.
_MOST_TEXT = 500
_MOST_TRACEBACK = 3000


def is_of_this_machine(peer: str) -> bool:
    """Whether a caller, as gRPC writes it (`ipv4:127.0.0.1:4711`), is a process of this machine."""
    kind, _, rest = peer.partition(":")
    if kind == "unix":
        return True
    try:
        return ip_address(split_address(unquote(rest))[0]).is_loopback
    except ValueError:
        return False


def with_traceback(ident: str, exc: BaseException) -> Internal:
    """The status of an internal error, with what it is in its text, and where in its details."""
    # Services that tell nothing do without this module.
    from google.rpc.error_details_pb2 import DebugInfo

    text = shortened(f"{type(exc).__name__}: {exc}", _MOST_TEXT)
    lines = format_traceback(type(exc), exc, exc.__traceback__)[-_MOST_TRACEBACK:].splitlines()
    return Internal(
        f"internal error, id {ident}: {text}",
        error_details=[DebugInfo(stack_entries=lines, detail=text)],
    )
