"""What says that a method may run twice."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import descriptor_pool

from pymicro.errors import ConfigError
from pymicro.handlers.protos import says_idempotent

__all__ = ["Marks", "proto_says_idempotent"]


def proto_says_idempotent(path: str) -> bool:
    """Whether the proto of `/package.Service/Method` has `idempotency_level` set so.

    The stub's module has put its descriptors into the default pool; a method that
    is not there is not marked.
    """
    name = path.lstrip("/").replace("/", ".")
    try:
        return says_idempotent(descriptor_pool.Default().FindMethodByName(name))
    except KeyError:
        return False


class Marks:
    """Methods named at a channel as such that may run twice.

    Args:
        names: `/package.Service/Method`, `package.Service/Method`, or `Method` alone
            for the methods of that name in every service; of these several.

    Raises:
        ConfigError: A name that cannot be a method's.
    """

    def __init__(self, names: Iterable[str]) -> None:
        if isinstance(names, str):
            names = (names,)
        paths, methods = set(), set()
        for name in names:
            service, slash, method = name.rpartition("/") if isinstance(name, str) else ("", "", "")
            service = service.removeprefix("/")
            if not method or bool(slash) != bool(service) or "." in method:
                raise ConfigError(
                    f"idempotent= has {name!r}, which names no method: "
                    "give '/package.Service/Method', or 'Method' for all services"
                )
            if service:
                paths.add(f"/{service}/{method}")
            else:
                methods.add(method)
        self._paths, self._methods = frozenset(paths), frozenset(methods)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and (path in self._paths or path.rpartition("/")[2] in self._methods)
