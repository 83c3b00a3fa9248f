"""Who may call what: patterns for callers, of everything, of one service, or of one method."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pymicro.base.errors import ConfigError
from pymicro.base.printable import excerpt
from pymicro.identity.caller import PRINCIPALS, KnownCaller
from pymicro.identity.globs import Globs

__all__ = ["AllowedCallers", "CallRules", "read_rules"]

# Whoever has proved who he is.
ANYBODY = "*"
# Where a star stops. Colons part the subjects of Kubernetes' tokens as slashes part a SPIFFE id.
_STOPS, _PRINCIPAL_STOPS = "/", "/:"


@dataclass(frozen=True)
class AllowedCallers:
    """Patterns, one of which has to match an id of the caller.

    `*` stands for any characters but a slash, and `**` for any. `*` alone is whoever has proved
    who he is. No pattern at all lets nobody in.

    Patterns that begin with `token:` or `key:` are for tokens and API keys, and match nothing else;
    `*` in them stops at colons too. All others are for certificates, and match nothing else. So no
    authority can issue a certificate that passes for a token, and the other way round.

    Attributes:
        patterns: As they were written.
    """

    patterns: tuple[str, ...]
    _certificates: Globs = field(init=False, repr=False, compare=False)
    _principals: Globs = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        principals = [one for one in self.patterns if one.startswith(PRINCIPALS)]
        certificates = [_cased(one) for one in self.patterns if not one.startswith(PRINCIPALS)]
        object.__setattr__(self, "_certificates", Globs(certificates, _STOPS))
        object.__setattr__(self, "_principals", Globs(principals, _PRINCIPAL_STOPS))

    @classmethod
    def of(cls, patterns: Iterable[str] | None, where: str) -> AllowedCallers | None:
        """The patterns, checked; None if nothing is said.

        Args:
            patterns: What somebody wrote.
            where: Where, for the message.

        Raises:
            ConfigError: They are no list of texts.
        """
        if patterns is None:
            return None
        if isinstance(patterns, str) or not isinstance(patterns, Iterable):
            raise ConfigError(f"{where}: {excerpt(patterns)} is no list of callers")
        found = tuple(patterns)
        for one in found:
            if not isinstance(one, str) or not one.strip():
                raise ConfigError(
                    f"{where}: {excerpt(one)} is no caller, such as spiffe://cluster.local/ns/shop/*"
                )
        return cls(found)

    def admit(self, caller: KnownCaller) -> bool:
        """Whether this caller is one of them."""
        if ANYBODY in self.patterns:
            return True
        if caller.principal and self._principals.match(caller.principal):
            return True
        return any(map(self._certificates.match, caller.ids))


def _cased(pattern: str) -> str:
    # Names of the DNS are held against in small letters; paths of URIs tell large ones apart.
    return pattern if "://" in pattern else pattern.lower()


@dataclass(frozen=True)
class CallRules:
    """What is said of methods; the place that is nearest to a method decides.

    Attributes:
        everywhere: Of all methods; None if nothing is said.
        services: Of all methods of a service, by `package.Service`.
        methods: Of one, by `package.Service/Method`.
    """

    everywhere: AllowedCallers | None = None
    services: Mapping[str, AllowedCallers] = field(default_factory=dict)
    methods: Mapping[str, AllowedCallers] = field(default_factory=dict)

    def over(self, other: CallRules) -> CallRules:
        """Both; of the same place, what this one says."""
        return CallRules(
            self.everywhere if self.everywhere is not None else other.everywhere,
            {**other.services, **self.services},
            {**other.methods, **self.methods},
        )

    def of(self, path: str) -> AllowedCallers | None:
        """Who may call the method of this path, `/package.Service/Method`; None for everybody."""
        name = path[1:]
        found = self.methods.get(name)
        if found is None:
            found = self.services.get(name.rpartition("/")[0])
        return found if found is not None else self.everywhere

    def __bool__(self) -> bool:
        return self.everywhere is not None or bool(self.services) or bool(self.methods)


def read_rules(data: bytes, path: str) -> CallRules:
    """The rules in a file.

    Args:
        data: What is in it: TOML, with `allow`, and tables `services` and `methods`.
        path: Its path, for messages.

    Raises:
        ConfigError: Says what is wrong with it.
    """
    try:
        # Editors of Windows begin a file with a mark.
        document = tomllib.loads(data.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ConfigError(f"{path} is no TOML: {exc}") from exc
    tables = {}
    for name in ("services", "methods"):
        table = document.pop(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {name} is a table, with a list of callers for each name")
        tables[name] = {
            key: _said(callers, f"{path}: {name} {excerpt(key)}") for key, callers in table.items()
        }
    for key in tables["methods"]:
        if "/" not in key or key.startswith("/"):
            raise ConfigError(
                f"{path}: methods {excerpt(key)} is no method, such as greeter.v1.Greeter/SayHello"
            )
    everywhere = AllowedCallers.of(document.pop("allow", None), f"{path}: allow")
    if document:
        raise ConfigError(
            f"{path}: {excerpt(next(iter(document)))} means nothing here (allow, services and methods do)"
        )
    return CallRules(everywhere, tables["services"], tables["methods"])


def _said(callers: object, where: str) -> AllowedCallers:
    found = AllowedCallers.of(callers, where) if isinstance(callers, list) else None
    if found is None:
        raise ConfigError(f"{where}: {excerpt(callers)} is no list of callers")
    return found
