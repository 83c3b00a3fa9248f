"""Served paths, and the form in which go-micro's callers send them: `/<any prefix>.<Service>/<Method>`.

A go-micro client puts the service's registered name where gRPC has the proto's package,
and a go-micro server looks at the last segment only (go-micro v1.18.0,
`client/grpc/request.go`, `util/grpc/grpc.go`). `Paths` does the same with paths that
nothing here serves under that full name.
"""

from __future__ import annotations

from collections.abc import Iterable

from pymicro.rpc.wire.status import clip
from pymicro.serving.handlers.protos import suggested

__all__ = ["Paths"]

# Bytes of an error's text: a server may have hundreds of methods.
_LONGEST = 1024


class Paths:
    """All paths of one server.

    Args:
        paths: The paths of the services that were added.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._all: list[str] = []
        self._by_end: dict[str, list[str]] = {}
        for path in paths:
            self.add(path, by_end=True)

    def add(self, path: str, *, by_end: bool = False) -> None:
        """Add one more path.

        Args:
            by_end: Whether its last segment is enough to find it. Health and reflection need
                their whole name, so that a user's `Health` is not ambiguous.
        """
        self._all.append(path)
        if by_end:
            self._by_end.setdefault(_end(path), []).append(path)

    def like(self, path: str) -> list[str]:
        """The served paths that end in the same service and method; more than one is ambiguous."""
        return self._by_end.get(_end(path), [])

    def explain(self, path: str) -> str:
        """Say why a path is not served, in words for its caller."""
        shown = path if len(path) <= 200 else path[:200] + "..."
        like = self.like(path)
        if like:
            text = f"{shown} may be each of {', '.join(like)}: call the one that is meant by its full path"
            return clip(text, _LONGEST)
        service, _, name = path.removeprefix("/").rpartition("/")
        rpcs = self._rpcs()
        meant = [service] if service in rpcs else [one for one in rpcs if _last(one) == _last(service)]
        if len(meant) == 1:
            there = rpcs[meant[0]]
            text = f"{shown} is not served here: {meant[0]} has {', '.join(there)}"
            hint = suggested(name, there)
        else:
            text = f"{shown} is not served here: this server has {', '.join(rpcs)}"
            hint = suggested(service, rpcs)
        return clip(f"{text}; {hint}" if hint else text, _LONGEST)

    def _rpcs(self) -> dict[str, list[str]]:
        """The rpc names of each service."""
        found: dict[str, list[str]] = {}
        for path in self._all:
            service, _, rpc = path[1:].rpartition("/")
            found.setdefault(service, []).append(rpc)
        return found


def _end(path: str) -> str:
    """`Greeter/SayHello` for `/any.prefix.Greeter/SayHello`; empty for a path with more parts."""
    service, _, method = path.removeprefix("/").rpartition("/")
    return "" if "/" in service else f"{_last(service)}/{method}"


def _last(service: str) -> str:
    return service.rpartition(".")[2]
