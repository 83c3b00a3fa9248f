"""Whether two processes of `pymicro up` would want what only one can have: a port, a node's id."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pymicro.base.errors import ConfigError
from pymicro.base.printable import shortened
from pymicro.cli.report import InputError
from pymicro.cli.up_file import WantedService
from pymicro.nodes.address import split_address
from pymicro.settings import config as configuration
from pymicro.settings.config import Config
from pymicro.settings.file import SettingsFile

__all__ = ["check_claims"]

_ADDRESSES = ("server_address", "admin_address")
_ALL_HOSTS = ("", "0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class _Claim:
    """A setting that only one process can have.

    Attributes:
        text: The setting with its value and source, for messages.
        port: The port that it wants; 0 if it wants none.
    """

    service: str
    text: str
    host: str = ""
    port: int = 0

    def meets(self, other: _Claim) -> bool:
        """Whether both want one port."""
        if not self.port or self.port != other.port:
            return False
        return self.host == other.host or any(host in _ALL_HOSTS for host in (self.host, other.host))


def check_claims(
    file: SettingsFile, services: Sequence[WantedService], environments: Mapping[str, Mapping[str, str]]
) -> None:
    """Check the settings of the services, and that no two processes want the same port or id.

    What a program's code says is not known here.

    Args:
        environments: All variables of each service.

    Raises:
        ConfigError: A setting cannot be used.
        InputError: Two processes want one thing; says which.
    """
    taken: list[_Claim] = []
    for service in services:
        where = file.place("services", service.name)
        for claim in _claims(service, _settings(service, environments[service.name])):
            if service.replicas > 1:
                raise InputError(
                    f"{where}: {service.name} has {service.replicas} replicas, and only one of them could "
                    f"have {claim.text}"
                )
            for other in taken:
                if claim.meets(other):
                    whom = "itself" if other.service == service.name else other.service
                    raise InputError(
                        f"{where}: {service.name} wants the port of {whom}: {claim.text}, {other.text}"
                    )
            taken.append(claim)


def _settings(service: WantedService, environment: Mapping[str, str]) -> Config:
    """The settings of a service, as far as they are known here."""
    flags = list(service.args)
    try:
        configuration.parse_flags(flags)
    except ConfigError:
        flags = []  # the program reads them itself
    try:
        config = configuration.load({}, flags, environment)
    except ConfigError as exc:
        raise ConfigError(f"settings of {service.name}: {exc}") from None
    if not service.command:
        return config
    # Whether another program reads any settings is not known; those that are given to it alone, it reads.
    names = [configuration.environment_name(name) for name in _ADDRESSES]
    return configuration.load({}, (), {name: service.env.get(name, "") for name in names})


def _claims(service: WantedService, config: Config) -> list[_Claim]:
    def text(name: str) -> str:
        return f"{name} {shortened(getattr(config, name))} ({config.source(name)})"

    found = [_Claim(service.name, text("server_id"))] if config.server_id else []
    for name in _ADDRESSES:
        with contextlib.suppress(ValueError):  # the process will say what is wrong with it
            host, port = split_address(getattr(config, name))
            if port:
                found.append(_Claim(service.name, text(name), host, port))
    return found
